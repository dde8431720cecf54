#include "worker/agent/watchdog.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sab::agent {
namespace {

using ::testing::HasSubstr;

v1::TrainerPulse Pulse(v1::TrainerActivity activity, double age, double expected) {
  v1::TrainerPulse pulse;
  pulse.set_activity(activity);
  pulse.set_activity_seconds(age);
  pulse.set_expected_seconds(expected);
  return pulse;
}

class WatchdogTest : public ::testing::Test {
 protected:
  // Looks for so long at a process; the first verdict that is not empty.
  std::string Look(absl::Duration duration, bool busy = false, const v1::TrainerPulse* heard = nullptr) {
    for (absl::Duration t; t < duration; t += Watchdog::kInterval) {
      if (busy) sample_.active += Watchdog::kInterval / 2;
      if (heard != nullptr) watchdog_.Hear(*heard);
      if (std::string verdict = watchdog_.Look(Watchdog::kInterval, sample_); !verdict.empty()) return verdict;
    }
    return "";
  }

  Watchdog watchdog_;
  ProcessSample sample_{.found = true};
};

TEST_F(WatchdogTest, AStoppedProcessIsHungAfterTwoSecondsWhateverItWasAt) {
  watchdog_.Hear(Pulse(v1::TRAINER_ACTIVITY_EVALUATION, 0, 1000));
  sample_.stopped = true;
  EXPECT_EQ(Look(absl::Milliseconds(1750)), "");
  EXPECT_THAT(Look(absl::Milliseconds(250)), HasSubstr("is stopped by a signal for 2s"));
}

TEST_F(WatchdogTest, SilenceWithoutAnyWorkIsJudgedByThreeTimesTheExpectedAndAtLeastTwoSeconds) {
  watchdog_.Hear(Pulse(v1::TRAINER_ACTIVITY_STEP, 0, 0.1));
  Look(absl::Milliseconds(250));
  EXPECT_EQ(Look(absl::Milliseconds(1500)), "");
  EXPECT_THAT(Look(absl::Milliseconds(750)), HasSubstr("has not reported for"));
  watchdog_ = Watchdog();
  watchdog_.Hear(Pulse(v1::TRAINER_ACTIVITY_STEP, 0, 10));
  EXPECT_EQ(Look(absl::Seconds(29)), "");
  EXPECT_THAT(Look(absl::Seconds(3)), HasSubstr("(10s is usual)"));
}

TEST_F(WatchdogTest, AProcessThatComputesIsNeverHungHoweverLongItIsSilentOrAtOneThing) {
  watchdog_.Hear(Pulse(v1::TRAINER_ACTIVITY_STEP, 0, 0.1));
  EXPECT_EQ(Look(absl::Hours(1), /*busy=*/true), "");
}

TEST_F(WatchdogTest, ATrainingThreadThatIsStuckIsFoundThoughTheProcessReports) {
  const v1::TrainerPulse stuck = Pulse(v1::TRAINER_ACTIVITY_STEP, 100, 1);
  Look(absl::Milliseconds(250), false, &stuck);
  EXPECT_EQ(Look(absl::Milliseconds(2500), false, &stuck), "");
  EXPECT_THAT(Look(absl::Seconds(1), false, &stuck), HasSubstr("uses no processor and has been in a step for"));
}

TEST_F(WatchdogTest, WaitingForPeersOrForWordIsHealthy) {
  for (const auto activity :
       {v1::TRAINER_ACTIVITY_COLLECTIVE, v1::TRAINER_ACTIVITY_MEET, v1::TRAINER_ACTIVITY_INTERRUPTED}) {
    watchdog_ = Watchdog();
    const v1::TrainerPulse waits = Pulse(activity, 1000, 0.01);
    EXPECT_EQ(Look(absl::Minutes(30), false, &waits), "");
  }
}

TEST_F(WatchdogTest, WhatIsDoneForTheFirstTimeHasAMinuteOfIdleness) {
  const v1::TrainerPulse first = Pulse(v1::TRAINER_ACTIVITY_EVALUATION, 1000, 0);
  EXPECT_EQ(Look(absl::Seconds(59), false, &first), "");
  EXPECT_THAT(Look(absl::Seconds(2), false, &first), HasSubstr("an evaluation"));
}

TEST_F(WatchdogTest, AProcessThatWaitsForADiskHasAMinute) {
  watchdog_.Hear(Pulse(v1::TRAINER_ACTIVITY_STEP, 0, 0.1));
  sample_.in_device = true;
  EXPECT_EQ(Look(absl::Seconds(59)), "");
  EXPECT_NE(Look(absl::Seconds(2)), "");
}

TEST_F(WatchdogTest, AProcessThatNeverReportsIsGivenUpAfterItsStartingTimeOrLaterWhileItLoads) {
  EXPECT_EQ(Look(absl::Seconds(119)), "");
  EXPECT_THAT(Look(absl::Seconds(2)), HasSubstr("has not reported within 120s of its start"));
  watchdog_ = Watchdog();
  EXPECT_EQ(Look(absl::Minutes(19), /*busy=*/true), "");
  EXPECT_NE(Look(absl::Minutes(2), /*busy=*/true), "");
}

TEST_F(WatchdogTest, TimeInWhichTheAgentItselfStoodStillBlamesNobody) {
  watchdog_.Hear(Pulse(v1::TRAINER_ACTIVITY_STEP, 0, 0.1));
  Look(absl::Milliseconds(250));
  EXPECT_EQ(watchdog_.Look(absl::Minutes(10), sample_), "");
  EXPECT_LT(watchdog_.silence(), absl::Seconds(1));
}

TEST(ProcessSampleTest, SeesAStoppedProcessAndOneThatIsGone) {
  const pid_t pid = fork();
  if (pid == 0) {
    raise(SIGSTOP);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, WUNTRACED), pid);
  ASSERT_TRUE(WIFSTOPPED(status));
  EXPECT_TRUE(SampleProcess(pid).stopped);
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  EXPECT_FALSE(SampleProcess(pid).found);
}

}  // namespace
}  // namespace sab::agent
