#include "worker/agent/metric_buffer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sab::agent {
namespace {

using ::testing::ElementsAre;

v1::MetricPoint Point(int64_t step, const char* split) {
  v1::MetricPoint point;
  point.set_step(step);
  point.set_split(split);
  return point;
}

std::vector<int64_t> Steps(const std::vector<v1::MetricPoint>& points) {
  std::vector<int64_t> steps;
  for (const auto& point : points) steps.push_back(point.step());
  return steps;
}

TEST(MetricBufferTest, GivesBackInOrderOfArrivalWhateverTheSplit) {
  MetricBuffer buffer(10);
  for (int64_t step : {1, 2, 3, 4, 5}) buffer.Add(Point(step, step % 2 == 0 ? "eval" : "train"));
  EXPECT_THAT(Steps(buffer.Take(3)), ElementsAre(1, 2, 3));
  EXPECT_THAT(Steps(buffer.Take(10)), ElementsAre(4, 5));
  EXPECT_TRUE(buffer.empty());
}

TEST(MetricBufferTest, TheOldestTrainingFigureGoesWhenItIsFull) {
  MetricBuffer buffer(3);
  EXPECT_EQ(buffer.Add(Point(1, "eval")) + buffer.Add(Point(2, "train")) + buffer.Add(Point(3, "system")), 0);
  EXPECT_EQ(buffer.Add(Point(4, "train")), 1);
  EXPECT_EQ(buffer.Add(Point(5, "eval")), 1);
  EXPECT_THAT(Steps(buffer.Take(10)), ElementsAre(1, 4, 5));
}

TEST(MetricBufferTest, EvaluationIsNeverDropped) {
  MetricBuffer buffer(2);
  int64_t dropped = 0;
  for (int64_t step = 1; step <= 5; ++step) dropped += buffer.Add(Point(step, "eval"));
  EXPECT_EQ(dropped, 0);
  EXPECT_EQ(buffer.Add(Point(6, "train")), 1);
  EXPECT_EQ(buffer.size(), 5);
}

}  // namespace
}  // namespace sab::agent
