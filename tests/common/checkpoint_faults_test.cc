// A checkpoint interrupted at every write, sync and rename, by a crash with power loss or by a full disk: what lies
// there afterwards. This program's own write, fsync and rename stand before the system's, so that the code under test
// has no hook.
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/checkpoint/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/util/temp_dir.h"

namespace sab {
namespace {

namespace fs = std::filesystem;

constexpr int kCrashed = 77;

enum class How { kCrash, kFullDisk };

// What shall happen to the calls on files below a folder. One thread, one checkpoint at a time.
struct Faults {
  std::string folder;  // empty: nothing is counted
  How how = How::kCrash;
  int at = -1;  // number of the call that fails; -1: none
  int calls = 0;
  std::set<std::string> unsynced;                            // files with content that a power loss may take
  std::vector<std::pair<std::string, std::string>> renamed;  // (from, to) whose folder was not synced since
};
Faults faults;

std::string PathOf(int fd) {
  std::error_code error;
  return fs::read_symlink(absl::StrCat("/proc/self/fd/", fd), error).string();
}

bool Concerns(const std::string& path) {
  return !faults.folder.empty() && absl::StartsWith(path, faults.folder);
}

// The machine loses its power: of files that were not synced half is there, renames that were not synced are undone.
[[noreturn]] void Crash() {
  const std::string folder = std::exchange(faults.folder, "");
  for (auto it = faults.renamed.rbegin(); it != faults.renamed.rend(); ++it)
    std::rename(it->second.c_str(), it->first.c_str());
  for (const std::string& path : faults.unsynced) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    if (!error) fs::resize_file(path, size / 2, error);
  }
  _exit(kCrashed);
}

// True: this call is the one.
bool Strikes() {
  return faults.calls++ == faults.at;
}

}  // namespace
}  // namespace sab

extern "C" ssize_t write(int fd, const void* data, size_t size) {
  using namespace sab;  // NOLINT
  const std::string path = faults.folder.empty() ? "" : PathOf(fd);
  if (Concerns(path)) {
    faults.unsynced.insert(path);
    if (Strikes()) {
      syscall(SYS_write, fd, data, size / 2);
      if (faults.how == How::kCrash) Crash();
      errno = ENOSPC;
      return -1;
    }
  }
  return syscall(SYS_write, fd, data, size);
}

extern "C" int fsync(int fd) {
  using namespace sab;  // NOLINT
  const std::string path = faults.folder.empty() ? "" : PathOf(fd);
  if (Concerns(path) || (!faults.folder.empty() && absl::StartsWith(faults.folder, path))) {
    if (Strikes()) {
      if (faults.how == How::kCrash) Crash();
      errno = ENOSPC;
      return -1;
    }
    faults.unsynced.erase(path);
    std::erase_if(faults.renamed, [&](const auto& r) { return fs::path(r.second).parent_path() == path; });
  }
  return static_cast<int>(syscall(SYS_fsync, fd));
}

extern "C" int rename(const char* from, const char* to) noexcept {
  using namespace sab;  // NOLINT
  if (Concerns(to) && Strikes()) {
    if (faults.how == How::kCrash) Crash();
    errno = ENOSPC;
    return -1;
  }
  const int result = static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
  if (result == 0 && Concerns(to)) faults.renamed.emplace_back(from, to);
  return result;
}

namespace sab {
namespace {

using ::testing::HasSubstr;

class CheckpointFaultsTest : public ::testing::Test {
 protected:
  absl::StatusOr<v1::Checkpoint> Write(int64_t step) {
    v1::Checkpoint header;
    header.set_name(absl::StrCat("jobs/j1/checkpoints/", MakeCheckpointId(step, 1)));
    header.set_step(step);
    header.set_attempt(1);
    auto writer = CheckpointWriter::Create(parent_, header);
    if (!writer.ok()) return writer.status();
    const std::vector<float> data(300, static_cast<float>(step));
    const TensorView tensor{"w", "F32", {300}, {reinterpret_cast<const std::byte*>(data.data()), 1200}};
    for (const std::string_view file : {kModelFile, kOptimizerFile}) {
      if (auto status = writer->AddSafetensors(file, {tensor}); !status.ok()) return status;
    }
    if (auto status = writer->AddFile(kStateFile, absl::StrCat("{\"step\": ", step, "}")); !status.ok()) return status;
    return writer->Commit();
  }
  std::string FolderOf(int64_t step) const { return absl::StrCat(parent_, "/", MakeCheckpointId(step, 1)); }
  // How many calls an undisturbed one makes.
  int CountCalls() {
    faults = {.folder = parent_};
    EXPECT_TRUE(Write(10).ok());
    const int calls = faults.calls;
    faults = {};
    fs::remove_all(FolderOf(10));
    return calls;
  }

  testing_util::TempDir dir_;
  const std::string parent_ = CheckpointParent(dir_.path(), "jobs/j1");
};

TEST_F(CheckpointFaultsTest, ACrashAtAnyCallLeavesTheCheckpointBeforeAndEitherNothingOrAWholeOne) {
  ASSERT_TRUE(Write(5).ok());
  const int calls = CountCalls();
  ASSERT_GT(calls, 10);
  for (int at = 0; at < calls; ++at) {
    const pid_t child = fork();
    if (child == 0) {
      faults = {.folder = parent_, .how = How::kCrash, .at = at};
      (void)Write(10);
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(WEXITSTATUS(status), kCrashed) << at;
    EXPECT_TRUE(VerifyCheckpoint(FolderOf(5)).ok()) << at;
    if (fs::exists(FolderOf(10))) {
      EXPECT_TRUE(VerifyCheckpoint(FolderOf(10)).ok())
          << "call " << at << ": " << VerifyCheckpoint(FolderOf(10)).status();
    }
    // The next one is not disturbed by what was left.
    ASSERT_TRUE(Write(10).ok()) << at;
    EXPECT_TRUE(VerifyCheckpoint(FolderOf(10)).ok()) << at;
    fs::remove_all(FolderOf(10));
  }
}

TEST_F(CheckpointFaultsTest, AFullDiskAtAnyCallIsAnErrorThatSaysSoAndLeavesTheCheckpointBefore) {
  ASSERT_TRUE(Write(5).ok());
  const int calls = CountCalls();
  for (int at = 0; at < calls; ++at) {
    faults = {.folder = parent_, .how = How::kFullDisk, .at = at};
    const auto written = Write(10);
    faults = {};
    ASSERT_FALSE(written.ok()) << at;
    EXPECT_TRUE(absl::IsResourceExhausted(written.status())) << at << ": " << written.status();
    EXPECT_THAT(std::string(written.status().message()), HasSubstr("No space left on device"));
    EXPECT_TRUE(VerifyCheckpoint(FolderOf(5)).ok()) << at;
    for (const auto& entry : fs::directory_iterator(parent_)) {
      EXPECT_NE(entry.path().filename().string()[0], '.') << at << ": " << entry.path();
    }
    fs::remove_all(FolderOf(10));
  }
}

}  // namespace
}  // namespace sab
