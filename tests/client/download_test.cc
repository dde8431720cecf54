#include "client/api/download.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>

#include "common/checkpoint/checkpoint.h"
#include "tests/client/fake_service.h"
#include "tests/util/temp_dir.h"

namespace sab::client {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr int64_t kChunk = 1000;

// A real checkpoint, served by a fake coordinator in chunks of kChunk bytes; a test spoils what it wants.
class DownloadTest : public ::testing::Test {
 protected:
  using Write = std::function<bool(const v1::DownloadCheckpointResponse&)>;

  void SetUp() override {
    v1::Checkpoint header;
    header.set_name("jobs/abc/checkpoints/000000000500-a1");
    header.set_step(500);
    header.set_attempt(1);
    auto writer = CheckpointWriter::Create(source_.path(), header);
    ASSERT_TRUE(writer.ok()) << writer.status();
    std::string content;
    for (int i = 0; i < 10'000; ++i) content += static_cast<char>(i * 7919 >> 3);
    ASSERT_TRUE(writer->AddFile(kModelFile, content).ok());
    ASSERT_TRUE(writer->AddFile(kOptimizerFile, content.substr(0, 3333)).ok());
    ASSERT_TRUE(writer->AddFile(kStateFile, "{}").ok());
    auto committed = writer->Commit();
    ASSERT_TRUE(committed.ok()) << committed.status();
    checkpoint_ = *committed;
    fake_.download_checkpoint = [this](const auto& request, const auto& write) { return Serve(request, write); };
  }

  absl::Status Serve(const v1::DownloadCheckpointRequest& request, const Write& write) {
    asked_.push_back(request.path() + "@" + std::to_string(request.offset()));
    const std::string content = *ReadFile(source_.path() + "/000000000500-a1/" + request.path());
    int64_t offset = request.offset();
    while (offset < static_cast<int64_t>(content.size())) {
      v1::DownloadCheckpointResponse chunk;
      chunk.set_offset(offset);
      chunk.set_data(content.substr(offset, kChunk));
      chunk.set_crc32(crc32(0, reinterpret_cast<const Bytef*>(chunk.data().data()), chunk.data().size()));
      offset += static_cast<int64_t>(chunk.data().size());
      if (absl::Status status = spoil(request, &chunk); !status.ok()) return status;
      if (!write(chunk)) return absl::CancelledError("");
    }
    return absl::OkStatus();
  }

  absl::Status Download(bool force = false, absl::Duration connect_timeout = absl::Seconds(10)) {
    Client client({.address = fake_.address(), .connect_timeout = connect_timeout});
    return DownloadCheckpoint(client, checkpoint_,
                              {.to = to(), .force = force, .on_progress = [&](int64_t done, int64_t total) {
                                 progress_ = {done, total};
                               }});
  }

  std::string to() const { return target_.path() + "/out"; }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(to())) names.push_back(entry.path().filename());
    return names;
  }
  static void WriteText(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }

  testing_util::TempDir source_, target_;
  FakeService fake_;
  v1::Checkpoint checkpoint_;
  // Runs before a chunk is sent: changes it, or ends the stream.
  std::function<absl::Status(const v1::DownloadCheckpointRequest&, v1::DownloadCheckpointResponse*)> spoil =
      [](const auto&, auto*) { return absl::OkStatus(); };
  std::vector<std::string> asked_;
  std::pair<int64_t, int64_t> progress_;
};

TEST_F(DownloadTest, FolderHoldsTheVerifiedCheckpointAndNothingElse) {
  ASSERT_TRUE(Download().ok());
  EXPECT_THAT(Files(),
              UnorderedElementsAre("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"));
  const auto verified = VerifyCheckpoint(to());
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->name(), checkpoint_.name());
  EXPECT_EQ(progress_.first, progress_.second);
  EXPECT_GT(progress_.second, 13'000);
}

TEST_F(DownloadTest, AConnectionCutMidFileGoesOnFromTheByteReached) {
  int cuts = 0;
  spoil = [&](const auto& request, auto* chunk) {
    return request.path() == kModelFile && chunk->offset() == 4000 && cuts++ == 0 ? absl::UnavailableError("cut off")
                                                                                  : absl::OkStatus();
  };
  ASSERT_TRUE(Download().ok());
  EXPECT_THAT(asked_, ::testing::Contains("model.safetensors@4000"));
  EXPECT_TRUE(VerifyCheckpoint(to()).ok());
}

TEST_F(DownloadTest, TheSameCommandGoesOnWhereAnEarlierOneEnded) {
  spoil = [&](const auto& request, auto* chunk) {
    return request.path() == kModelFile && chunk->offset() == 4000 ? absl::NotFoundError("gone for now")
                                                                   : absl::OkStatus();
  };
  ASSERT_EQ(Download().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(fs::exists(to() + "/manifest.json"));
  spoil = [](const auto&, auto*) { return absl::OkStatus(); };
  asked_.clear();
  ASSERT_TRUE(Download().ok());
  EXPECT_EQ(asked_.front(), "model.safetensors@4000");
  EXPECT_TRUE(VerifyCheckpoint(to()).ok());
}

TEST_F(DownloadTest, AChunkWithAWrongCrcIsAskedForAgain) {
  int spoiled = 0;
  spoil = [&](const auto& request, auto* chunk) {
    if (request.path() == kModelFile && chunk->offset() == 2000 && spoiled++ == 0) chunk->mutable_data()->at(5) ^= 1;
    return absl::OkStatus();
  };
  ASSERT_TRUE(Download().ok());
  EXPECT_THAT(asked_, ::testing::Contains("model.safetensors@2000"));
}

TEST_F(DownloadTest, AChunkThatIsAlwaysDamagedIsRefused) {
  spoil = [&](const auto& request, auto* chunk) {
    if (request.path() == kModelFile && chunk->offset() == 2000) chunk->mutable_data()->at(5) ^= 1;
    return absl::OkStatus();
  };
  const absl::Status status = Download();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
  EXPECT_FALSE(fs::exists(to() + "/model.safetensors"));
  EXPECT_FALSE(fs::exists(to() + "/manifest.json"));
}

TEST_F(DownloadTest, ContentThatDoesNotFitItsDigestIsRefusedAndNotKept) {
  spoil = [&](const auto& request, auto* chunk) {
    if (request.path() == kOptimizerFile && chunk->offset() == 0) {
      chunk->mutable_data()->at(5) ^= 1;
      chunk->set_crc32(crc32(0, reinterpret_cast<const Bytef*>(chunk->data().data()), chunk->data().size()));
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(Download().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(fs::exists(to() + "/optimizer.safetensors"));
  EXPECT_FALSE(fs::exists(to() + "/optimizer.safetensors.part"));
}

TEST_F(DownloadTest, APartialFileThatWasSpoiledOnDiskIsFetchedAnew) {
  spoil = [&](const auto& request, auto* chunk) {
    return request.path() == kModelFile && chunk->offset() == 4000 ? absl::NotFoundError("gone for now")
                                                                   : absl::OkStatus();
  };
  ASSERT_FALSE(Download().ok());
  WriteText(to() + "/model.safetensors.part", std::string(4000, 'x'));
  spoil = [](const auto&, auto*) { return absl::OkStatus(); };
  ASSERT_TRUE(Download().ok());
  EXPECT_TRUE(VerifyCheckpoint(to()).ok());
}

TEST_F(DownloadTest, ADamagedFileOfTheCoordinatorIsReportedAsItSays) {
  spoil = [](const auto&, auto*) { return absl::DataLossError("model.safetensors is damaged"); };
  const absl::Status status = Download();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("is damaged"));
}

TEST_F(DownloadTest, ACoordinatorThatStaysAwayIsUnavailableAndTheBytesStay) {
  spoil = [&](const auto&, auto* chunk) {
    return chunk->offset() == 3000 ? absl::UnavailableError("cut off") : absl::OkStatus();
  };
  const absl::Status status = Download(false, absl::Milliseconds(300));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("byte 3000 of 10000"));
  EXPECT_EQ(fs::file_size(to() + "/model.safetensors.part"), 3000);
}

TEST_F(DownloadTest, ACompleteFolderIsVerifiedAndNothingIsFetched) {
  ASSERT_TRUE(Download().ok());
  asked_.clear();
  ASSERT_TRUE(Download().ok());
  EXPECT_THAT(asked_, ElementsAre());
}

TEST_F(DownloadTest, AFolderWithSomethingElseIsRefusedUnlessForced) {
  fs::create_directories(to());
  WriteText(to() + "/manifest.json", "{}");
  EXPECT_EQ(Download().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*ReadFile(to() + "/manifest.json"), "{}");
  ASSERT_TRUE(Download(/*force=*/true).ok());
  EXPECT_TRUE(VerifyCheckpoint(to()).ok());
}

TEST_F(DownloadTest, FileNamesThatLeadOutOfTheFolderAreRefused) {
  for (const char* path : {"../evil", "a/b", ".hidden", ""}) {
    v1::Checkpoint spoiled = checkpoint_;
    spoiled.mutable_files(0)->set_path(path);
    Client client({.address = fake_.address()});
    EXPECT_EQ(DownloadCheckpoint(client, spoiled, {.to = to()}).code(), absl::StatusCode::kDataLoss) << path;
  }
  EXPECT_FALSE(fs::exists(target_.path() + "/evil"));
}

TEST_F(DownloadTest, AManifestThatIsNotTheRecordedOneIsRefused) {
  checkpoint_.set_manifest_sha256(std::string(64, '0'));
  EXPECT_EQ(Download().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(fs::exists(to() + "/manifest.json"));
}

TEST_F(DownloadTest, MoreBytesThanAnnouncedAreRefused) {
  for (auto& file : *checkpoint_.mutable_files()) {
    if (file.path() == kModelFile) file.set_size_bytes(9'000);
  }
  EXPECT_EQ(Download().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace sab::client
