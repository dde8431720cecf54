#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "worker/trainer/reporter.h"

namespace sab::trainer {
namespace {

v1::MetricPoint Point(const char* split, int64_t step) {
  v1::MetricPoint point;
  point.set_split(split);
  point.set_name("loss");
  point.set_step(step);
  return point;
}

// Monotonic time that moves only when told.
class ManualClock : public Clock {
 public:
  absl::Time Now() const override { return absl::UnixEpoch(); }
  absl::Duration Monotonic() const override { return absl::Milliseconds(milliseconds.load()); }
  std::atomic<int64_t> milliseconds = 0;
};

TEST(ReporterTest, TheLastReportHasTheEndAndNoFigureIsLost) {
  std::vector<v1::ReportProgressRequest> sent;
  {
    Reporter reporter({.send =
                           [&](const v1::ReportProgressRequest& request) {
                             sent.push_back(request);
                             return absl::OkStatus();
                           },
                       .on_lost = [](const std::string&, bool) { ADD_FAILURE(); }});
    for (int step = 1; step <= 5000; ++step) reporter.Add(Point("train", step));
    reporter.SetStep(5000, 3);
    reporter.Succeed("steps");
  }
  int64_t next = 1;
  for (const auto& request : sent) {
    for (const auto& point : request.points()) EXPECT_EQ(point.step(), next++);
  }
  EXPECT_EQ(next, 5001);
  EXPECT_EQ(sent.back().phase(), v1::TRAINER_PHASE_SUCCEEDED);
  EXPECT_EQ(sent.back().stop_reason(), "steps");
  EXPECT_EQ(sent.back().skipped_steps(), 3);
  for (size_t i = 0; i + 1 < sent.size(); ++i) EXPECT_NE(sent[i].phase(), v1::TRAINER_PHASE_SUCCEEDED);
}

TEST(ReporterTest, FiguresThatCouldNotBeSentAreSentAgainInOrder) {
  std::vector<int64_t> steps;
  int calls = 0;
  {
    Reporter reporter({.send = [&](const v1::ReportProgressRequest& request) -> absl::Status {
                         if (++calls <= 2) return absl::UnavailableError("busy");
                         for (const auto& point : request.points()) steps.push_back(point.step());
                         return absl::OkStatus();
                       },
                       .on_lost = [](const std::string&, bool) { ADD_FAILURE(); }});
    for (int step = 1; step <= 3; ++step) reporter.Add(Point("train", step));
    reporter.Succeed("steps");
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3}));
}

TEST(ReporterTest, WhatDoesNotFitLeavesOldestOfTrainingFirst) {
  std::promise<void> sending, release;
  std::vector<v1::MetricPoint> points;
  int calls = 0;
  Reporter reporter({.send =
                         [&](const v1::ReportProgressRequest& request) {
                           if (++calls == 1) {
                             sending.set_value();
                             release.get_future().wait();
                           } else {
                             points.insert(points.end(), request.points().begin(), request.points().end());
                           }
                           return absl::OkStatus();
                         },
                     .on_lost = [](const std::string&, bool) { ADD_FAILURE(); },
                     .max_points = 3});
  reporter.Flush();
  sending.get_future().wait();  // the thread is in a call: what comes now is kept
  reporter.Add(Point("eval", 1));
  for (int step = 2; step <= 5; ++step) reporter.Add(Point("train", step));
  release.set_value();
  reporter.Succeed("steps");
  ASSERT_EQ(points.size(), 3u);
  EXPECT_EQ(points[0].split(), "eval");
  EXPECT_EQ(points[1].step(), 4);
  EXPECT_EQ(points[2].step(), 5);
}

TEST(ReporterTest, AnAgentThatAnswersAbortedIsLostAtOnce) {
  std::promise<std::string> lost;
  Reporter reporter({.send = [](const v1::ReportProgressRequest&) { return absl::AbortedError("stale attempt"); },
                     .on_lost = [&](const std::string& reason, bool) { lost.set_value(reason); }});
  reporter.Flush();
  EXPECT_EQ(lost.get_future().get(), "stale attempt");
}

TEST(ReporterTest, AnAgentIsLostOnlyAfterThePatienceIsOver) {
  ManualClock clock;
  std::promise<std::string> lost;
  std::atomic<int> calls = 0;
  Reporter reporter({.send =
                         [&](const v1::ReportProgressRequest&) {
                           clock.milliseconds += 4000;
                           ++calls;
                           return absl::UnavailableError("no socket");
                         },
                     .on_lost = [&](const std::string& reason, bool) { lost.set_value(reason); },
                     .patience = absl::Seconds(10),
                     .clock = &clock});
  reporter.Add(Point("train", 1));
  EXPECT_EQ(lost.get_future().get(), "the worker's agent did not answer for 10s: no socket");
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace sab::trainer
