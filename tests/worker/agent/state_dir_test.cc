#include "worker/agent/state_dir.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/util/temp_dir.h"

namespace sab::agent {
namespace {

using ::testing::HasSubstr;

TEST(StateDirTest, TheWorkerKeepsItsIdAndAnotherFolderIsAnotherWorker) {
  testing_util::TempDir dir;
  const std::string first = StateDir::Open(dir.path() + "/a")->worker().name();
  EXPECT_EQ(StateDir::Open(dir.path() + "/a")->worker().name(), first);
  EXPECT_NE(StateDir::Open(dir.path() + "/b")->worker().name(), first);
}

TEST(StateDirTest, ASecondAgentOnTheFolderIsRefused) {
  testing_util::TempDir dir;
  const auto first = StateDir::Open(dir.path());
  ASSERT_TRUE(first.ok());
  const auto second = StateDir::Open(dir.path());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("choose another --state-dir"));
}

TEST(StateDirTest, IncarnationsGrowEvenWhenTheClockGoesBack) {
  testing_util::TempDir dir;
  auto state = StateDir::Open(dir.path());
  EXPECT_EQ(*state->NextIncarnation(absl::FromUnixMicros(1000)), 1000);
  EXPECT_EQ(*state->NextIncarnation(absl::FromUnixMicros(500)), 1001);
  EXPECT_EQ(*state->NextIncarnation(absl::FromUnixMicros(5000)), 5000);
}

TEST(StateDirTest, ADamagedWorkerIdIsNamed) {
  testing_util::TempDir dir;
  ASSERT_TRUE(WriteFileDurably(dir.path() + "/worker-id", "NOT AN ID").ok());
  EXPECT_EQ(StateDir::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

// A process of its own group, as trainers are.
pid_t StartSleeper() {
  const pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    execl("/bin/sleep", "sleep", "1000", nullptr);
    _exit(127);
  }
  setpgid(pid, pid);
  return pid;
}

TEST(StateDirTest, LeftoverTrainersAreKilledAndReported) {
  testing_util::TempDir dir;
  auto state = StateDir::Open(dir.path());
  const TrainerKey key{"jobs/a", 2, 1};
  const pid_t pid = StartSleeper();
  state->RecordTrainer(key, pid);
  EXPECT_THAT(state->EndLeftovers(), testing::ElementsAre(key));
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(state->EndLeftovers().empty());
}

TEST(StateDirTest, AnotherProcessThatGotTheNumberIsLeftAlone) {
  testing_util::TempDir dir;
  auto state = StateDir::Open(dir.path());
  const pid_t pid = StartSleeper();
  state->RecordTrainer({"jobs/a", 1, 0}, pid);
  // The record of a process with that number which started at another time.
  const std::string path = dir.path() + "/trainers/a-a1-r0.json";
  std::string record = *ReadFile(path);
  const size_t at = record.find("start_ticks\":") + 13;
  record.insert(at, "1");
  ASSERT_TRUE(WriteFileDurably(path, record).ok());
  EXPECT_EQ(state->EndLeftovers().size(), 1);
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

TEST(StateDirTest, ATrainerThatEndedIsNotALeftoverAndGarbageIsRemoved) {
  testing_util::TempDir dir;
  auto state = StateDir::Open(dir.path());
  state->RecordTrainer({"jobs/a", 1, 0}, getpid());
  state->ForgetTrainer({"jobs/a", 1, 0});
  ASSERT_TRUE(WriteFileDurably(dir.path() + "/trainers/x.json", "{garbage").ok());
  EXPECT_TRUE(state->EndLeftovers().empty());
  EXPECT_TRUE(std::filesystem::is_empty(dir.path() + "/trainers"));
}

TEST(StateDirTest, OnlyTheNewestLogsAreKept) {
  testing_util::TempDir dir;
  auto state = StateDir::Open(dir.path());
  for (int i = 0; i < 250; ++i) {
    const std::string path = state->LogPath({absl::StrCat("jobs/j", i), 1, 0});
    std::ofstream(path) << "x\n";
  }
  const auto count =
      std::distance(std::filesystem::directory_iterator(dir.path() + "/logs"), std::filesystem::directory_iterator());
  EXPECT_EQ(count, 200);
  EXPECT_TRUE(std::filesystem::exists(dir.path() + "/logs/j249-a1-r0.log"));
}

}  // namespace
}  // namespace sab::agent
