#include <gtest/gtest.h>

#include "model/fast/footprint.h"
#include "model/fast/plan.h"

namespace sab::model::fast {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;

double Gigabytes(const ModelConfig& config, int64_t steps, int64_t threads = 2) {
  return static_cast<double>(TrainingBytes(config, TaskShape(), 64, steps, threads)) / kGiB;
}

TEST(Footprint, IsLinearInTheLengthOfTheSequence) {
  ModelConfig config;
  config.recompute = Recompute::kOff;
  const double fixed = Gigabytes(config, 64), once = Gigabytes(config, 1000) - fixed,
               twice = Gigabytes(config, 1936) - fixed;
  EXPECT_NEAR(twice / once, 2, 0.02);
}

TEST(Footprint, DoesNotGrowWithTheBatchBeyondTheBlocksInWork) {
  EXPECT_EQ(TrainingBytes({}, {}, 64, 300, 2), TrainingBytes({}, {}, 4096, 300, 2));
}

TEST(Footprint, RecomputingKeepsLessThanHalf) {
  ModelConfig config;
  config.recompute = Recompute::kOff;
  const double kept = Gigabytes(config, 2000);
  config.recompute = Recompute::kOn;
  EXPECT_LT(Gigabytes(config, 2000), kept / 2);
}

TEST(Footprint, AMillionStepsTakeLessThanEightGigabytes) {
  ModelConfig config;
  config.score = Score::kSeparable;
  EXPECT_LT(Gigabytes(config, 1000000), 3);
  for (Score score : {Score::kMlp, Score::kSeparable}) {
    config.score = score;
    config.memory_capacity = 64;
    EXPECT_LT(Gigabytes(config, 1000000), 3);
  }
  config = ModelConfig();
  config.kind = Kind::kLstm;
  EXPECT_LT(Gigabytes(config, 1000000), 3);
}

// Of a bounded memory one state of a written memory is kept, and nothing else that grows with it but its place.
TEST(Footprint, ABoundedMemoryKeepsOneStateForEachWrite) {
  ModelConfig config;
  config.memory_capacity = 64;
  config.recompute = Recompute::kOn;
  constexpr int64_t kSteps = 100000, kWrites = kSteps / 2 - kSteps / 10;
  const auto workspace = [&](int64_t k_att) {
    config.k_att = k_att;
    Plan plan = MakePlan(config, {}, 2, kSteps, true);  // two blocks of one row
    return static_cast<double>(LayOutWorkspace<float>(plan, nullptr).bytes);
  };
  const double of_a_write = (workspace(2) - workspace(10)) / kWrites;
  EXPECT_NEAR(of_a_write, 128 * 4 + 2 * 4 + 1, 4);  // a buffer of one chunk beside it
}

TEST(Footprint, RecallingEverythingKeepsOneNumberAStep) {
  ModelConfig config;
  config.recompute = Recompute::kOn;
  config.recall = Recall::kAll;
  const auto workspace = [&](int64_t steps) {
    return static_cast<double>(LayOutWorkspace<float>(MakePlan(config, {}, 64, steps, true), nullptr).bytes);
  };
  const double fixed = workspace(640);
  EXPECT_NEAR((workspace(12800) - fixed) / (workspace(6720) - fixed), 2, 0.02);
}

TEST(Footprint, AnEvaluationOfAnLstmDoesNotDependOnTheLength) {
  ModelConfig config;
  config.kind = Kind::kLstm;
  EXPECT_EQ(EvaluationBytes(config, {}, 64, 100, 2), EvaluationBytes(config, {}, 64, 100000, 2));
}

TEST(Plan, DividesABatchIntoTheSameBlocksWhateverTheThreads) {
  const Plan plan = MakePlan({}, {}, 64, 120, true);
  EXPECT_EQ(plan.rows, 8);
  EXPECT_FALSE(plan.recompute);
}

TEST(Plan, GivesBlocksMoreRowsWhereWeightsDoNotFitACache) {
  ModelConfig config;
  config.hidden_size = 512;
  EXPECT_EQ(MakePlan(config, {}, 64, 120, true).rows, 16);
  EXPECT_EQ(MakePlan(config, {}, 256, 120, true).rows, 32);
  EXPECT_EQ(MakePlan(config, {}, 16, 120, true).rows, 8);
}

TEST(Plan, RecomputesAndNarrowsBlocksWhenASequenceIsLong) {
  EXPECT_TRUE(MakePlan({}, {}, 64, 20000, true).recompute);
  EXPECT_LT(MakePlan({}, {}, 64, 1000000, true).rows, 4);
}

}  // namespace
}  // namespace sab::model::fast
