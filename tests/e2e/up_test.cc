// `sabctl up`, as users start the service on one machine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/process/child_process.h"
#include "common/checkpoint/checkpoint.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"
#include "tests/util/temp_dir.h"

namespace sab::e2e {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class UpTest : public ::testing::Test {
 protected:
  void Start(std::vector<std::string> options = {}) {
    fs::remove(address_file_);
    std::vector<std::string> command = {
        BinDir() + "/sabctl", "up",          "--workers",      "2",          "--state-dir", dir_.path() + "/state",
        "--listen",           "127.0.0.1:0", "--address-file", address_file_};
    command.insert(command.end(), options.begin(), options.end());
    auto process = ChildProcess::Start({.command = command, .output = out_});
    ASSERT_TRUE(process.ok()) << process.status();
    up_.emplace(*std::move(process));
    ASSERT_TRUE(Eventually([&] { return fs::exists(address_file_) || up_->Poll(); }));
    ASSERT_TRUE(up_->running()) << Output();
    address_ = std::string(absl::StripAsciiWhitespace(*ReadFile(address_file_)));
  }
  std::string Output() const { return ReadFile(out_).value_or(""); }
  Ran Sabctl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--address", address_});
    return RunProgram(BinDir() + "/sabctl", arguments, dir_.path());
  }
  // Children of the running `up` with this name.
  std::vector<pid_t> Children(const std::string& name) const {
    std::vector<pid_t> pids;
    const std::string list =
        ReadFile(absl::StrCat("/proc/", up_->pid(), "/task/", up_->pid(), "/children")).value_or("");
    for (absl::string_view text : absl::StrSplit(list, ' ', absl::SkipEmpty())) {
      int pid = 0;
      std::ifstream comm(absl::StrCat("/proc/", text, "/comm"));
      std::string line;
      std::getline(comm, line);
      if (absl::SimpleAtoi(text, &pid) && line == name.substr(0, 15)) pids.push_back(pid);
    }
    return pids;
  }
  static bool Gone(pid_t pid) { return kill(pid, 0) != 0; }

  testing_util::TempDir dir_;
  const std::string address_file_ = dir_.path() + "/address";
  const std::string out_ = dir_.path() + "/up.out";
  std::string address_;
  std::optional<ChildProcess> up_;
};

TEST_F(UpTest, AllWorkersAreReadyWhenTheAddressFileIsThere) {
  Start();
  const Ran workers = Sabctl({"worker", "list", "-o", "json"});
  EXPECT_EQ(workers.code, 0) << workers.err;
  size_t ready = 0;
  for (size_t at = 0; (at = workers.out.find("WORKER_STATE_READY", at)) != std::string::npos; ++at) ++ready;
  EXPECT_EQ(ready, 2);
  EXPECT_THAT(Output(), HasSubstr(address_));
  EXPECT_THAT(Output(), HasSubstr("/metrics"));
}

TEST_F(UpTest, SigtermEndsItWithAllItsChildren) {
  Start({"--quiet"});
  std::vector<pid_t> children = Children("sab-worker");
  for (pid_t pid : Children("sab-coordinator")) children.push_back(pid);
  ASSERT_EQ(children.size(), 3);
  up_->Signal(SIGTERM);
  up_->Wait();
  EXPECT_EQ(up_->exit_code(), 0) << Output();
  for (pid_t pid : children) EXPECT_TRUE(Gone(pid));
  EXPECT_FALSE(fs::exists(address_file_));
  EXPECT_EQ(Output(), "");
}

TEST_F(UpTest, AnEndedWorkerIsReportedAndEndsTheRest) {
  Start();
  const std::vector<pid_t> coordinator = Children("sab-coordinator");
  ASSERT_EQ(coordinator.size(), 1);
  ASSERT_EQ(kill(Children("sab-worker").at(0), SIGKILL), 0);
  up_->Wait();
  EXPECT_EQ(up_->exit_code(), 1);
  EXPECT_THAT(Output(), HasSubstr("was killed by signal 9"));
  EXPECT_TRUE(Gone(coordinator[0]));
}

TEST_F(UpTest, ChildrenEndWhenItIsKilled) {
  Start();
  std::vector<pid_t> children = Children("sab-worker");
  for (pid_t pid : Children("sab-coordinator")) children.push_back(pid);
  up_->Signal(SIGKILL);
  up_->Wait();
  EXPECT_TRUE(Eventually([&] { return std::all_of(children.begin(), children.end(), Gone); }));
}

TEST_F(UpTest, ASecondOneOnTheSameStateIsRefused) {
  Start();
  const Ran second = RunProgram(BinDir() + "/sabctl",
                                {"up", "--state-dir", dir_.path() + "/state", "--listen", "127.0.0.1:0"}, dir_.path());
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.err, HasSubstr("in use by another"));
  EXPECT_TRUE(up_->running());
}

TEST_F(UpTest, AnAddressThatIsTakenIsReportedAtOnce) {
  Start();
  const Ran second = RunProgram(BinDir() + "/sabctl",
                                {"up", "--state-dir", dir_.path() + "/other", "--listen", address_}, dir_.path());
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.err, HasSubstr(address_));
}

TEST_F(UpTest, AnUnfinishedJobGoesOnAtTheNextStart) {
  Start();
  const std::string file = dir_.path() + "/job.yaml";
  std::ofstream(file) << CopyJob(2, kEndless, 40);
  const Ran submitted = Sabctl({"submit", file, "-o", "name"});
  ASSERT_EQ(submitted.code, 0) << submitted.err;
  const std::string job(absl::StripAsciiWhitespace(submitted.out));
  ASSERT_TRUE(Eventually([&] { return Sabctl({"checkpoint", "list", job, "-o", "name"}).out.find(job) == 0; }));
  up_->Signal(SIGTERM);
  up_->Wait();
  EXPECT_EQ(up_->exit_code(), 0) << Output();
  const auto saved = [&] { return Sabctl({"checkpoint", "list", job, "-o", "name"}).out; };
  Start();
  const std::string before = saved();
  EXPECT_TRUE(Eventually([&] { return saved() != before; })) << before;
}

}  // namespace
}  // namespace sab::e2e
