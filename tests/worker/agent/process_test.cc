#include "worker/agent/process.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sab::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Collects what a supervisor tells; waits are for events, not for time.
class Recorder : public ProcessEvents {
 public:
  void OnStarted(int64_t handle, int pid) override {
    MutexLock lock(&mutex_);
    pids_[handle] = pid;
    changed_.NotifyAll();
  }
  void OnLines(int64_t handle, const std::vector<std::string>& lines) override {
    MutexLock lock(&mutex_);
    lines_[handle].insert(lines_[handle].end(), lines.begin(), lines.end());
    changed_.NotifyAll();
  }
  void OnEnd(int64_t handle, const ProcessEnd& end) override {
    MutexLock lock(&mutex_);
    ends_[handle] = end;
    changed_.NotifyAll();
  }
  ProcessEnd WaitForEnd(int64_t handle) {
    MutexLock lock(&mutex_);
    while (!ends_.contains(handle)) changed_.Wait(&mutex_);
    return ends_[handle];
  }
  std::vector<std::string> WaitForLines(int64_t handle, size_t count) {
    MutexLock lock(&mutex_);
    while (lines_[handle].size() < count) changed_.Wait(&mutex_);
    return lines_[handle];
  }
  std::vector<std::string> Lines(int64_t handle) {
    MutexLock lock(&mutex_);
    return lines_[handle];
  }
  int pid(int64_t handle) {
    MutexLock lock(&mutex_);
    return pids_[handle];
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::map<int64_t, int> pids_;
  std::map<int64_t, std::vector<std::string>> lines_;
  std::map<int64_t, ProcessEnd> ends_;
};

ProcessSpec Shell(const std::string& script) {
  return {{"/bin/sh", "-c", script}, {"PATH=/bin:/usr/bin", "X=from the agent"}};
}

class ProcessTest : public ::testing::Test {
 protected:
  Recorder recorder_;
  ProcessSupervisor supervisor_{&recorder_, absl::Milliseconds(50)};
};

TEST_F(ProcessTest, TellsExitCodeAndLines) {
  const int64_t handle = supervisor_.Start(Shell("echo one; echo \"$X\"; printf last; exit 3"));
  const ProcessEnd end = recorder_.WaitForEnd(handle);
  EXPECT_EQ(end.exit_code, 3);
  EXPECT_EQ(end.signal, 0);
  EXPECT_FALSE(end.asked_to_stop);
  EXPECT_THAT(recorder_.Lines(handle), ElementsAre("one", "from the agent", "last"));
  EXPECT_EQ(end.Describe(), "exited with code 3");
}

TEST_F(ProcessTest, TellsTheSignalAndWhatItMayMean) {
  const int64_t handle = supervisor_.Start(Shell("kill -9 $$"));
  const ProcessEnd end = recorder_.WaitForEnd(handle);
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_THAT(end.Describe(), HasSubstr("was killed by signal 9 (SIGKILL)"));
  EXPECT_THAT(end.Describe(), HasSubstr("out of memory"));
}

TEST_F(ProcessTest, KeepsTheLastTwentyLinesOfStandardError) {
  const int64_t handle = supervisor_.Start(Shell("echo out; for i in $(seq 1 30); do echo e$i >&2; done; exit 1"));
  const ProcessEnd end = recorder_.WaitForEnd(handle);
  ASSERT_EQ(end.last_errors.size(), 20);
  EXPECT_EQ(end.last_errors.front(), "e11");
  EXPECT_EQ(end.last_errors.back(), "e30");
  EXPECT_THAT(end.Describe(), HasSubstr("e29\ne30"));
  EXPECT_EQ(recorder_.Lines(handle).size(), 31);
}

TEST_F(ProcessTest, AProgramThatDoesNotExistSaysSo) {
  const ProcessEnd end = recorder_.WaitForEnd(supervisor_.Start({{"/no/such/program"}, {}}));
  EXPECT_THAT(end.start_error, HasSubstr("/no/such/program: No such file"));
  EXPECT_THAT(end.Describe(), HasSubstr("could not be started"));
}

TEST_F(ProcessTest, StopAsksFirst) {
  const int64_t handle =
      supervisor_.Start(Shell("trap 'echo leaving; exit 7' TERM; echo ready; while :; do sleep 0.01; done"));
  recorder_.WaitForLines(handle, 1);
  supervisor_.Stop(handle);
  const ProcessEnd end = recorder_.WaitForEnd(handle);
  EXPECT_TRUE(end.asked_to_stop);
  EXPECT_EQ(end.exit_code, 7);
  EXPECT_THAT(recorder_.Lines(handle), ElementsAre("ready", "leaving"));
}

TEST_F(ProcessTest, WhoIgnoresSigtermIsKilledAfterTheGrace) {
  const int64_t handle = supervisor_.Start(Shell("trap '' TERM; echo ready; while :; do sleep 10; done"));
  recorder_.WaitForLines(handle, 1);
  supervisor_.Stop(handle);
  EXPECT_EQ(recorder_.WaitForEnd(handle).signal, SIGKILL);
}

TEST_F(ProcessTest, WhoIsExpectedToEndAndDoesNotIsKilled) {
  const int64_t handle = supervisor_.Start(Shell("echo ready; sleep 1000"));
  recorder_.WaitForLines(handle, 1);
  supervisor_.ExpectEnd(handle, absl::Milliseconds(1));
  const ProcessEnd end = recorder_.WaitForEnd(handle);
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_FALSE(end.asked_to_stop);
}

TEST_F(ProcessTest, DescendantsEndWithTheProcess) {
  const int64_t handle = supervisor_.Start(Shell("sleep 1000 & echo $!; exit 0"));
  recorder_.WaitForEnd(handle);
  int descendant = 0;
  ASSERT_TRUE(absl::SimpleAtoi(recorder_.Lines(handle)[0], &descendant));
  // It was killed before the end was told; the kernel may take a moment to carry it out.
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, descendant, 0));
  if (fd < 0) return;
  pollfd wait{fd, POLLIN, 0};
  EXPECT_EQ(poll(&wait, 1, -1), 1);
  close(fd);
}

TEST_F(ProcessTest, SignalsAreAsAProgramExpectsThem) {
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  Recorder recorder;
  ProcessSupervisor supervisor(&recorder, absl::Hours(1));
  const int64_t handle = supervisor.Start(Shell("echo ready; sleep 1000"));
  recorder.WaitForLines(handle, 1);
  supervisor.Stop(handle);
  EXPECT_EQ(recorder.WaitForEnd(handle).signal, SIGTERM);
  pthread_sigmask(SIG_UNBLOCK, &blocked, nullptr);
}

TEST_F(ProcessTest, OpenFilesAreNotInherited) {
  const int64_t handle = supervisor_.Start(Shell("ls /proc/self/fd | wc -l"));
  recorder_.WaitForEnd(handle);
  int count = 0;
  ASSERT_TRUE(absl::SimpleAtoi(recorder_.Lines(handle)[0], &count));
  EXPECT_LE(count, 4);  // 0, 1, 2 and the folder that ls reads
}

TEST_F(ProcessTest, LongLinesAreCutAndBadBytesReplaced) {
  const int64_t handle = supervisor_.Start(Shell("head -c 20000 /dev/zero | tr '\\0' x; echo; printf 'a\\377b\\n'"));
  recorder_.WaitForEnd(handle);
  const auto lines = recorder_.Lines(handle);
  ASSERT_EQ(lines.size(), 2);
  EXPECT_EQ(lines[0].size(), 8192);
  EXPECT_EQ(lines[1],
            "a\xEF\xBF\xBD"
            "b");
}

TEST_F(ProcessTest, ManyProcessesAtOnceAllEnd) {
  std::set<int64_t> handles;
  for (int i = 0; i < 20; ++i) handles.insert(supervisor_.Start(Shell(absl::StrCat("exit ", i))));
  EXPECT_EQ(handles.size(), 20);
  int sum = 0;
  for (int64_t handle : handles) sum += recorder_.WaitForEnd(handle).exit_code;
  EXPECT_EQ(sum, 190);
}

TEST_F(ProcessTest, StoppingWhatHasEndedIsHarmless) {
  const int64_t handle = supervisor_.Start(Shell("exit 0"));
  recorder_.WaitForEnd(handle);
  supervisor_.Stop(handle);
  supervisor_.Stop(12345);
  EXPECT_EQ(recorder_.WaitForEnd(supervisor_.Start(Shell("exit 4"))).exit_code, 4);
}

TEST(ProcessSupervisorTest, DestroyedItKillsWhatRuns) {
  Recorder recorder;
  int64_t handle = 0;
  {
    ProcessSupervisor supervisor(&recorder, absl::Hours(1));
    handle = supervisor.Start(Shell("echo ready; trap '' TERM; sleep 1000"));
    recorder.WaitForLines(handle, 1);
  }
  EXPECT_EQ(recorder.WaitForEnd(handle).signal, SIGKILL);
  EXPECT_EQ(kill(recorder.pid(handle), 0), -1);
}

TEST(ToUtf8Test, KeepsTextAndReplacesEverythingElse) {
  EXPECT_EQ(ToUtf8("aä€😀"), "aä€😀");
  EXPECT_EQ(ToUtf8("\xC0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(ToUtf8("\xED\xA0\x80").find("\xED"), std::string::npos);
  EXPECT_EQ(ToUtf8("a\xC3"), "a\xEF\xBF\xBD");
}

}  // namespace
}  // namespace sab::agent
