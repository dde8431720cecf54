#include "common/checkpoint/checkpoint.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/util/temp_dir.h"

namespace sab {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr char kName[] = "jobs/j1/checkpoints/000000000500-a2";

class CheckpointTest : public ::testing::Test {
 protected:
  static v1::Checkpoint Header() {
    v1::Checkpoint header;
    header.set_name(kName);
    header.set_step(500);
    header.set_attempt(2);
    header.set_eval_loss(0.25);
    return header;
  }
  absl::StatusOr<v1::Checkpoint> Write(float first = 1) {
    auto writer = CheckpointWriter::Create(parent_, Header());
    if (!writer.ok()) return writer.status();
    const std::vector<float> data = {first, 2, 3};
    const TensorView tensor{"w", "F32", {3}, {reinterpret_cast<const std::byte*>(data.data()), 12}};
    if (auto status = writer->AddSafetensors(kModelFile, {tensor}); !status.ok()) return status;
    if (auto status = writer->AddFile(kStateFile, "{\"step\": 500}"); !status.ok()) return status;
    return writer->Commit();
  }
  static void Overwrite(const std::string& path, const std::string& content) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
  }
  std::vector<std::string> Entries() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(parent_)) names.push_back(entry.path().filename());
    return names;
  }

  testing_util::TempDir dir_;
  const std::string parent_ = CheckpointParent(dir_.path(), "jobs/j1");
  const std::string folder_ = parent_ + "/000000000500-a2";
};

TEST_F(CheckpointTest, WhatIsCommittedIsVerifiedAndTheSame) {
  const auto written = Write();
  ASSERT_TRUE(written.ok()) << written.status();
  const auto read = VerifyCheckpoint(folder_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->SerializeAsString(), written->SerializeAsString());
  EXPECT_EQ(read->name(), kName);
  EXPECT_EQ(read->eval_loss(), 0.25);
  ASSERT_EQ(read->files_size(), 3);
  EXPECT_EQ(read->files(2).path(), kManifestFile);
  EXPECT_EQ(read->manifest_sha256(), *Sha256OfFile(folder_ + "/manifest.json"));
  int64_t total = 0;
  for (const auto& file : read->files()) total += static_cast<int64_t>(fs::file_size(folder_ + "/" + file.path()));
  EXPECT_EQ(read->size_bytes(), total);
}

TEST_F(CheckpointTest, NothingButTheFinalFolderIsLeft) {
  ASSERT_TRUE(Write().ok());
  EXPECT_THAT(Entries(), testing::ElementsAre("000000000500-a2"));
}

TEST_F(CheckpointTest, AnUncommittedWriterLeavesNothing) {
  {
    auto writer = CheckpointWriter::Create(parent_, Header());
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->AddFile(kStateFile, "{}").ok());
    EXPECT_EQ(Entries().size(), 1);
  }
  EXPECT_TRUE(Entries().empty());
}

TEST_F(CheckpointTest, AProcessThatDiesBeforeCommitLeavesNoCheckpoint) {
  const pid_t child = fork();
  if (child == 0) {
    auto writer = CheckpointWriter::Create(parent_, Header());
    if (writer.ok()) (void)writer->AddFile(kStateFile, "{}");
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(Entries().empty());
  EXPECT_EQ(VerifyCheckpoint(folder_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CheckpointTest, AValidCheckpointOfThatNameIsKept) {
  const auto first = Write(1);
  const auto second = Write(9);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->manifest_sha256(), first->manifest_sha256());
  EXPECT_EQ(Entries().size(), 1);
}

TEST_F(CheckpointTest, ADamagedCheckpointOfThatNameIsReplaced) {
  ASSERT_TRUE(Write().ok());
  fs::resize_file(folder_ + "/state.json", 3);
  ASSERT_TRUE(Write().ok());
  EXPECT_TRUE(VerifyCheckpoint(folder_).ok());
}

TEST_F(CheckpointTest, EveryTruncationOfEveryFileIsDetected) {
  const auto written = Write();
  ASSERT_TRUE(written.ok());
  for (const auto& file : written->files()) {
    const std::string path = folder_ + "/" + file.path();
    const std::string whole = *ReadFile(path);
    for (size_t size = 0; size < whole.size(); ++size) {
      Overwrite(path, whole.substr(0, size));
      const auto found = VerifyCheckpoint(folder_);
      // A manifest cut in its last newline is still the whole manifest, but no longer the recorded one.
      EXPECT_TRUE(!found.ok() || found->manifest_sha256() != written->manifest_sha256())
          << file.path() << " cut to " << size;
    }
    Overwrite(path, whole);
  }
}

TEST_F(CheckpointTest, EveryFlippedByteIsDetected) {
  const auto written = Write();
  ASSERT_TRUE(written.ok());
  for (const auto& file : written->files()) {
    const std::string path = folder_ + "/" + file.path();
    const std::string whole = *ReadFile(path);
    for (size_t at = 0; at < whole.size(); ++at) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
      Overwrite(path, damaged);
      const auto found = VerifyCheckpoint(folder_);
      EXPECT_TRUE(!found.ok() || found->manifest_sha256() != written->manifest_sha256()) << file.path() << " at " << at;
    }
    Overwrite(path, whole);
  }
  EXPECT_TRUE(VerifyCheckpoint(folder_).ok());
}

TEST_F(CheckpointTest, DamageIsDataLossThatNamesTheFile) {
  ASSERT_TRUE(Write().ok());
  const std::string path = folder_ + "/model.safetensors";
  std::string content = *ReadFile(path);
  content.back() = static_cast<char>(content.back() ^ 1);
  ASSERT_TRUE(WriteFileDurably(path, content).ok());
  const absl::Status status = VerifyCheckpoint(folder_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_TRUE(VerifyCheckpoint(folder_, /*digests=*/false).ok());
}

TEST_F(CheckpointTest, AManifestThatNamesAFileOutsideIsRefused) {
  ASSERT_TRUE(Write().ok());
  std::string manifest = *ReadFile(folder_ + "/manifest.json");
  manifest.replace(manifest.find("state.json"), 10, "../state.x");
  ASSERT_TRUE(WriteFileDurably(folder_ + "/manifest.json", manifest).ok());
  EXPECT_EQ(VerifyCheckpoint(folder_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(CheckpointTest, FileNamesThatLeadOutOrRepeatAreRefused) {
  auto writer = CheckpointWriter::Create(parent_, Header());
  ASSERT_TRUE(writer.ok());
  EXPECT_FALSE(writer->AddFile("../x", "").ok());
  EXPECT_FALSE(writer->AddFile("manifest.json", "").ok());
  EXPECT_TRUE(writer->AddFile("x", "").ok());
  EXPECT_EQ(writer->AddFile("x", "").code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(CheckpointTest, ABadResourceNameIsRefused) {
  v1::Checkpoint header = Header();
  header.set_name("jobs/../checkpoints/x");
  EXPECT_EQ(CheckpointWriter::Create(parent_, header).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CheckpointTest, FilesAreReadableByOthersWhateverTheUmask) {
  const mode_t before = umask(0077);
  ASSERT_TRUE(Write().ok());
  umask(before);
  struct stat info {};
  ASSERT_EQ(stat((folder_ + "/model.safetensors").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0644);
  ASSERT_EQ(stat(folder_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0755);
}

// RLIMIT_FSIZE stands for a full disk: the write fails in the middle.
TEST_F(CheckpointTest, AFullDiskIsResourceExhaustedAndLeavesNothing) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
    int result = 1;
    {
      auto writer = CheckpointWriter::Create(parent_, Header());
      const absl::Status status =
          writer.ok() ? writer->AddFile(kModelFile, std::string(100'000, 'x')) : writer.status();
      const bool names_size =
          absl::StrContains(status.message(), "100000 bytes") && absl::StrContains(status.message(), "make room");
      if (absl::IsResourceExhausted(status) && names_size) result = 0;
    }
    _exit(result);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(Entries().empty());
}

TEST(FileTest, KnownDigest) {
  EXPECT_EQ(Sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  testing_util::TempDir dir;
  ASSERT_TRUE(WriteFileDurably(dir.path() + "/f", "abc").ok());
  EXPECT_EQ(*Sha256OfFile(dir.path() + "/f"), Sha256("abc"));
}

TEST(FileTest, AReplacedFileHoldsTheNewContentAlone) {
  testing_util::TempDir dir;
  ASSERT_TRUE(WriteFileDurably(dir.path() + "/f", "longer").ok());
  ASSERT_TRUE(WriteFileDurably(dir.path() + "/f", "new").ok());
  EXPECT_EQ(*ReadFile(dir.path() + "/f"), "new");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()), 1);
}

TEST(FileTest, AMissingFileIsNotFoundAndAMissingFolderToo) {
  testing_util::TempDir dir;
  EXPECT_EQ(ReadFile(dir.path() + "/f").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(WriteFileDurably(dir.path() + "/none/f", "x").code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sab
