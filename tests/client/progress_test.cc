#include "client/cli/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sab::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using Points = google::protobuf::RepeatedPtrField<v1::MetricPoint>;

void Add(Points* points, int64_t step, const std::string& split, const std::string& name, int64_t length,
         double value) {
  v1::MetricPoint* point = points->Add();
  point->set_step(step);
  point->set_split(split);
  point->set_name(name);
  point->set_length(length);
  point->set_value(value);
}

Points TrainLoss(int64_t step, double loss) {
  Points points;
  Add(&points, step, "train", "loss", 0, loss);
  return points;
}

class ProgressViewTest : public ::testing::Test {
 protected:
  ProgressViewTest() {
    job_.set_name("jobs/abc");
    job_.set_state(v1::JOB_STATE_QUEUED);
    job_.mutable_spec()->set_name("copy-10");
    job_.mutable_spec()->mutable_train()->set_steps(1000);
  }
  v1::Job InState(v1::JobState state, const std::string& reason = "") {
    job_.set_state(state);
    job_.set_state_reason(reason);
    return job_;
  }

  v1::Job job_;
  absl::Time now_ = absl::FromUnixSeconds(1'000'000);
  ProgressView live_{{.live = true}};
  ProgressView plain_{{.live = false}};
};

TEST_F(ProgressViewTest, SaysEachStateOnceWithItsReason) {
  EXPECT_THAT(live_.OnJob(InState(v1::JOB_STATE_QUEUED, "waits for 2 slots"), now_),
              ElementsAre("jobs/abc QUEUED: waits for 2 slots"));
  EXPECT_THAT(live_.OnJob(InState(v1::JOB_STATE_QUEUED, "waits for 2 slots"), now_), IsEmpty());
  EXPECT_THAT(live_.OnJob(InState(v1::JOB_STATE_RUNNING), now_), ElementsAre("jobs/abc RUNNING"));
}

TEST_F(ProgressViewTest, SaysWhereANewAttemptGoesOn) {
  job_.set_attempt_count(1);
  live_.OnJob(InState(v1::JOB_STATE_RUNNING), now_);
  job_.set_attempt_count(2);
  job_.add_attempts()->set_number(1);
  v1::Attempt* attempt = job_.add_attempts();
  attempt->set_number(2);
  attempt->set_start_step(500);
  attempt->set_recovery_source("jobs/abc/checkpoints/500-a1");
  EXPECT_THAT(live_.OnJob(InState(v1::JOB_STATE_STARTING), now_),
              ElementsAre("attempt 2 goes on from step 500 (jobs/abc/checkpoints/500-a1)", "jobs/abc STARTING"));
}

TEST_F(ProgressViewTest, StatusLineHasStepLossMetricRateAndEta) {
  live_.OnJob(InState(v1::JOB_STATE_RUNNING), now_);
  for (int second = 2; second <= 10; ++second) {
    live_.OnMetrics(TrainLoss(second * 50, 0.03125), now_ + absl::Seconds(second));
  }
  Points evaluation;
  Add(&evaluation, 500, "eval", "loss", 10, 0.03);
  Add(&evaluation, 500, "eval", "accuracy", 10, 0.962);
  live_.OnMetrics(evaluation, now_ + absl::Seconds(10));
  EXPECT_EQ(live_.StatusLine(now_ + absl::Seconds(10)),
            "copy-10  [#########         ]  50%  step 500/1000  loss 0.03125  accuracy 0.962  50 steps/s  ETA 10s");
}

TEST_F(ProgressViewTest, FiguresStoredBeforeWeCameGiveNoRate) {
  live_.OnJob(InState(v1::JOB_STATE_RUNNING), now_);
  for (int step = 1; step <= 800; ++step) live_.OnMetrics(TrainLoss(step, 1), now_ + absl::Milliseconds(step));
  EXPECT_THAT(live_.StatusLine(now_ + absl::Seconds(1)), Not(HasSubstr("steps/s")));
}

TEST_F(ProgressViewTest, BeforeEnoughIsHeardTheRateIsTheAttemptsMean) {
  v1::Attempt* attempt = job_.add_attempts();
  attempt->mutable_first_step_time()->set_seconds(absl::ToUnixSeconds(now_) - 100);
  job_.set_step(501);
  live_.OnJob(InState(v1::JOB_STATE_RUNNING), now_);
  EXPECT_DOUBLE_EQ(live_.StepsPerSecond(now_), 5);
}

TEST_F(ProgressViewTest, TheRateOfAnEarlierAttemptIsForgotten) {
  job_.set_attempt_count(1);
  live_.OnJob(InState(v1::JOB_STATE_RUNNING), now_);
  for (int second = 2; second <= 10; ++second) live_.OnMetrics(TrainLoss(second * 50, 1), now_ + absl::Seconds(second));
  EXPECT_GT(live_.StepsPerSecond(now_ + absl::Seconds(10)), 0);
  job_.set_attempt_count(2);
  job_.set_step(100);
  live_.OnJob(InState(v1::JOB_STATE_STARTING), now_ + absl::Seconds(11));
  EXPECT_EQ(live_.StepsPerSecond(now_ + absl::Seconds(11)), 0);
  EXPECT_THAT(live_.StatusLine(now_ + absl::Seconds(11)), HasSubstr("step 100/1000"));
}

TEST_F(ProgressViewTest, OneLineForEachEvaluationWithAllLengths) {
  live_.OnJob(InState(v1::JOB_STATE_RUNNING), now_);
  Points first, second;
  Add(&first, 200, "eval", "loss", 10, 0.5);
  Add(&first, 200, "eval", "accuracy", 10, 0.75);
  Add(&second, 200, "eval", "loss", 200, 0.6);
  Add(&second, 200, "eval", "accuracy", 200, 0.5);
  EXPECT_THAT(live_.OnMetrics(first, now_), IsEmpty());
  EXPECT_THAT(live_.OnMetrics(second, now_), IsEmpty());
  EXPECT_THAT(live_.OnMetrics(TrainLoss(201, 0.4), now_),
              ElementsAre("step 200 evaluation  accuracy  0.75 @10  0.5 @200"));
  EXPECT_THAT(live_.Flush(), IsEmpty());
}

TEST_F(ProgressViewTest, AnEvaluationAtTheEndIsFlushed) {
  Points points;
  Add(&points, 1000, "eval", "mse", 100, 0.01);
  live_.OnMetrics(points, now_);
  EXPECT_THAT(live_.Flush(), ElementsAre("step 1000 evaluation  mse 0.01"));
}

TEST_F(ProgressViewTest, PlainLinesOfTrainingComeNowAndThen) {
  plain_.OnJob(InState(v1::JOB_STATE_RUNNING), now_);
  int lines = 0;
  for (int tick = 1; tick <= 200; ++tick) {
    lines += static_cast<int>(plain_.OnMetrics(TrainLoss(tick, 1), now_ + absl::Milliseconds(100 * tick)).size());
  }
  EXPECT_EQ(lines, 4);
  EXPECT_THAT(plain_.StatusLine(now_ + absl::Seconds(20)), HasSubstr("step 200/1000  loss 1"));
}

TEST_F(ProgressViewTest, StatusLineFitsTheTerminal) {
  ProgressView narrow({.live = true, .width = 30});
  narrow.OnJob(InState(v1::JOB_STATE_RUNNING), now_);
  EXPECT_EQ(narrow.StatusLine(now_).size(), 30);
}

TEST_F(ProgressViewTest, SummaryOfAFailedJobHasItsFailure) {
  job_.set_failure("rank 1 was killed by signal 9\nlast words: out of memory");
  job_.set_step(12);
  job_.set_attempt_count(4);
  EXPECT_THAT(Summary(InState(v1::JOB_STATE_FAILED)),
              ElementsAre("jobs/abc FAILED: 12 of 1000 steps, 4 attempts", "  rank 1 was killed by signal 9",
                          "  last words: out of memory"));
}

TEST_F(ProgressViewTest, SummaryOfASucceededJobHasItsStopReasonAndTime) {
  job_.set_stop_reason("stop_when: accuracy >= 0.999 at step 800");
  job_.set_step(800);
  job_.mutable_start_time()->set_seconds(1000);
  job_.mutable_end_time()->set_seconds(1090);
  EXPECT_THAT(Summary(InState(v1::JOB_STATE_SUCCEEDED, "done")),
              ElementsAre("jobs/abc SUCCEEDED (stop_when: accuracy >= 0.999 at step 800): 800 of 1000 steps in 1m30s"));
}

TEST(BarTest, IsFullAtTheEndAndNeverBeyond) {
  EXPECT_EQ(Bar(0, 4), "[    ]");
  EXPECT_EQ(Bar(0.5, 4), "[##  ]");
  EXPECT_EQ(Bar(1.5, 4), "[####]");
}

}  // namespace
}  // namespace sab::client
