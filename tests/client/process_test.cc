#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include "client/process/child_process.h"
#include "tests/util/temp_dir.h"

namespace sab {
namespace {

std::string Content(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(ChildProcessTest, OutputAndErrorsGoToTheFileAndTheExitCodeIsKnown) {
  testing_util::TempDir dir;
  const std::string log = dir.path() + "/log";
  auto child = ChildProcess::Start({.command = {"/bin/sh", "-c", "echo out $GREETING; echo err >&2; exit 3"},
                                    .output = log,
                                    .environment = {{"GREETING", "hello"}}});
  ASSERT_TRUE(child.ok()) << child.status();
  child->Wait();
  EXPECT_EQ(child->exit_code(), 3);
  EXPECT_EQ(child->HowItEnded(), "exited with code 3");
  EXPECT_EQ(Content(log), "out hello\nerr\n");
}

TEST(ChildProcessTest, ASignalThatEndsItIsNamed) {
  auto child = ChildProcess::Start({.command = {"/bin/sleep", "1000"}});
  ASSERT_TRUE(child.ok());
  EXPECT_FALSE(child->Poll());
  child->Signal(SIGKILL);
  child->Wait();
  EXPECT_EQ(child->exit_code(), 137);
  EXPECT_EQ(child->HowItEnded(), "was killed by signal 9 (Killed)");
}

TEST(ChildProcessTest, AProgramThatIsNotThereIsAnErrorThatNamesIt) {
  const auto child = ChildProcess::Start({.command = {"/no/such/program"}});
  EXPECT_EQ(child.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(child.status().message()), ::testing::HasSubstr("/no/such/program"));
}

TEST(ChildProcessTest, AChildThatIsStillRunningEndsWithItsOwner) {
  pid_t pid = 0;
  {
    auto child = ChildProcess::Start({.command = {"/bin/sleep", "1000"}});
    ASSERT_TRUE(child.ok());
    pid = child->pid();
  }
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

}  // namespace
}  // namespace sab
