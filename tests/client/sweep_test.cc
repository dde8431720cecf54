#include "client/cli/sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace sab::client {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Points(const Sweep& sweep) {
  std::vector<std::string> texts;
  for (const SweepPoint& point : sweep.points) texts.push_back(absl::StrJoin(point, " ", absl::PairFormatter("=")));
  return texts;
}

std::vector<std::string> Violations(const std::string& text) {
  const auto file = SplitSweep(text);
  std::vector<std::string> found;
  for (const FieldViolation& violation : ViolationsOf(file.status())) {
    // "line 4: ..."
    found.push_back(absl::StrCat(violation.reason.substr(5, violation.reason.find(':') - 5), " ", violation.field));
  }
  return found;
}

TEST(SweepTest, AFileWithoutASectionStaysAsItIs) {
  const auto file = SplitSweep("name: x\ntask: {kind: copy}\n");
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE(file->sweep.has_value());
  EXPECT_EQ(file->job, "name: x\ntask: {kind: copy}\n");
}

TEST(SweepTest, AGridIsEveryCombinationTheLastFieldFastest) {
  const auto file = SplitSweep(
      "name: x\nsweep:\n  grid:\n    train.learning_rate: [1.0e-3, 0.1]\n    eval.lengths: [[5, 6], [7]]\n"
      "  max_parallel: 2\ntask: {kind: copy}\n");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(
      Points(*file->sweep),
      ElementsAre("train.learning_rate=1.0e-3 eval.lengths=[5, 6]", "train.learning_rate=1.0e-3 eval.lengths=[7]",
                  "train.learning_rate=0.1 eval.lengths=[5, 6]", "train.learning_rate=0.1 eval.lengths=[7]"));
  EXPECT_EQ(file->sweep->max_parallel, 2);
  // Lines of the rest stay where they are.
  EXPECT_EQ(file->job, "name: x\n\n\n\n\n\ntask: {kind: copy}\n");
}

TEST(SweepTest, DrawnPointsComeFromTheSeedAndStayInTheirRange) {
  const std::string text =
      "sweep:\n  random:\n    train.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}\n"
      "    model.k_top: {low: 1, high: 3, integer: true}\n    model.score: [mlp, separable]\n  trials: 200\n  seed: ";
  const auto file = SplitSweep(text + "7\n");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->sweep->points.size(), 200);
  int small = 0;
  std::map<std::string, int> tops, scores;
  for (const SweepPoint& point : file->sweep->points) {
    double rate = 0;
    ASSERT_TRUE(absl::SimpleAtod(point[0].second, &rate));
    EXPECT_TRUE(rate >= 1e-4 && rate <= 1e-1) << rate;
    small += rate < 3.16e-3;
    ++tops[point[1].second];
    ++scores[point[2].second];
  }
  EXPECT_TRUE(small > 70 && small < 130) << "half of the draws are in the lower half of the logarithm: " << small;
  EXPECT_EQ(tops.size(), 3);
  EXPECT_EQ(scores.size(), 2);
  EXPECT_EQ(Points(*SplitSweep(text + "7\n")->sweep), Points(*file->sweep));
  EXPECT_NE(Points(*SplitSweep(text + "8\n")->sweep), Points(*file->sweep));
}

TEST(SweepTest, EveryDrawnPointRunsWithEveryCombinationOfTheGrid) {
  const auto file = SplitSweep("sweep:\n  random: {a: [1]}\n  trials: 2\n  grid: {b: [x, y]}\n");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(Points(*file->sweep), ElementsAre("a=1 b=x", "a=1 b=y", "a=1 b=x", "a=1 b=y"));
}

TEST(SweepTest, WhatIsWrongIsListedWithItsLine) {
  EXPECT_THAT(Violations("name: x\nsweep:\n  grid: {a: 3}\n  trails: 5\n  max_parallel: 0\n"),
              ElementsAre("4 sweep.trails", "3 sweep.grid.a", "3 sweep", "5 sweep.max_parallel"));
  EXPECT_THAT(Violations("sweep:\n  random: {a: {low: 0, high: 1, log: true}}\n  trials: 3\n"),
              ElementsAre("2 sweep.random.a"));
  EXPECT_THAT(Violations("sweep:\n  random: {a: [1]}\n"), ElementsAre("2 sweep.trials"));
  EXPECT_THAT(Violations("sweep: 5\n"), ElementsAre("1 sweep"));
  EXPECT_THAT(Violations("sweep:\n  random: {a: [1]}\n  trials: 5001\n  grid: {b: [1, 2]}\n"), ElementsAre("2 sweep"));
}

TEST(SweepTest, HalvingIsReadWithItsDefaults) {
  const auto file = SplitSweep("sweep:\n  grid: {a: [1, 2]}\n  halving: {metric: loss, first: 50}\n");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->sweep->halving.has_value());
  EXPECT_EQ(file->sweep->halving->metric, "loss");
  EXPECT_EQ(file->sweep->halving->mode, "");
  EXPECT_EQ(file->sweep->halving->factor, 3);
  EXPECT_EQ(file->sweep->halving->first, 50);
}

TEST(SweepTest, WhatIsWrongWithHalvingIsListed) {
  EXPECT_THAT(Violations("sweep:\n  grid: {a: [1, 2]}\n  halving:\n    metric: loss\n    frist: 3\n    first: 3\n"),
              ElementsAre("5 sweep.halving.frist"));
  EXPECT_THAT(
      Violations("sweep:\n  grid: {a: [1, 2]}\n  halving:\n    mode: best\n    factor: 1\n"),
      ElementsAre("4 sweep.halving.metric", "4 sweep.halving.mode", "5 sweep.halving.factor", "4 sweep.halving.first"));
  EXPECT_THAT(Violations("sweep:\n  grid: {train.steps: [10, 20]}\n  halving: {metric: loss, first: 5}\n"),
              ElementsAre("3 sweep.halving"));
  EXPECT_THAT(Violations("sweep:\n  grid: {a: [1]}\n  halving: {metric: loss, first: 5}\n"),
              ElementsAre("2 sweep.halving"));
}

TEST(SweepTest, RungsGrowByTheFactorUntilOneTrialIsLeftOrTheStepsAreOver) {
  const auto text = [](const SweepHalving& halving, int64_t trials, int64_t steps) {
    std::vector<std::string> rungs;
    for (const Rung& rung : RungsOf(halving, trials, steps)) rungs.push_back(absl::StrCat(rung.step, ":", rung.places));
    return rungs;
  };
  const SweepHalving by_three{.metric = "accuracy", .mode = "", .factor = 3, .first = 500};
  EXPECT_THAT(text(by_three, 27, 100000), ElementsAre("500:9", "1500:3", "4500:1"));
  EXPECT_THAT(text(by_three, 27, 1501), ElementsAre("500:9", "1500:3"));
  EXPECT_THAT(text(by_three, 27, 1500), ElementsAre("500:9"));
  EXPECT_THAT(text(by_three, 27, 500), ElementsAre());
  const SweepHalving huge{.metric = "loss", .mode = "", .factor = 10000, .first = int64_t{1} << 52};
  EXPECT_THAT(text(huge, 10000, int64_t{1} << 53), ElementsAre(absl::StrCat(int64_t{1} << 52, ":1")));
}

}  // namespace
}  // namespace sab::client
