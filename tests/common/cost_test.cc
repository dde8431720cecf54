#include "common/spec/cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/spec/model_config.h"
#include "common/spec/spec_file.h"
#include "common/spec/validate.h"
#include "model/fast/footprint.h"

namespace sab::spec {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

v1::JobSpec Spec(const std::vector<std::string>& overrides) {
  auto file = ParseSpec("{name: a, task: {kind: copy, length: 100}, train: {steps: 5}}");
  EXPECT_TRUE(file.ok()) << file.status().message();
  v1::JobSpec spec = file->spec;
  for (const std::string& assignment : overrides) EXPECT_TRUE(ApplyOverride(assignment, &spec).ok()) << assignment;
  ResolveDefaults(&spec);
  return spec;
}

v1::CostEstimate Cost(const std::vector<std::string>& overrides) {
  return EstimateCost(Spec(overrides));
}

bool IsFast(const std::vector<std::string>& overrides) {
  const std::string basis = Cost(overrides).basis();
  EXPECT_THAT(basis, ::testing::AnyOf(StartsWith("fused engine"), StartsWith("reference engine")));
  return basis.starts_with("fused");
}

TEST(CostTest, CountsParametersExactly) {
  constexpr int64_t h = 128;
  EXPECT_EQ(Cost({"model.kind=lstm"}).parameters(), 4 * h * (1 + h + 2) + 10 * h + 10);
  EXPECT_EQ(Cost({}).parameters(), 4 * h * (1 + h + 2) + 2 * h * h + h + 20 * h + 10);
  EXPECT_EQ(Cost({"model.score=separable", "task.one_hot=true"}).parameters(),
            4 * h * (10 + h + 2) + 2 * h + 20 * h + 10);
  EXPECT_EQ(Cost({"model.kind=attention", "task.kind=adding"}).parameters(),
            4 * h * (2 + h + 2) + 2 * h * h + h + 2 * h + 1);
  EXPECT_EQ(Cost({"task={kind: text, path: /x}", "model.embedding_size=16"}).parameters(),
            4 * h * (16 + h + 2) + 2 * h * h + h + 256 * (2 * h + 1) + 256 * 16);
}

TEST(CostTest, PredictsTheFusedEngineWhereTheTrainerWouldTakeIt) {
  for (const char* kind : {"sab", "lstm", "attention"})
    EXPECT_TRUE(IsFast({std::string("model.kind=") + kind})) << kind;
  EXPECT_TRUE(IsFast({"model.score=separable"}));
  EXPECT_TRUE(IsFast({"model.engine=fast", "resources.device=cpu"}));
  for (const char* recall : {"top", "last", "random", "all"})
    EXPECT_TRUE(IsFast({std::string("model.recall=") + recall, "model.memory={capacity: 64, policy: salient}"}))
        << recall;
  EXPECT_TRUE(IsFast({"model.memory.capacity=64", "model.score=separable"}));
  EXPECT_TRUE(IsFast({"resources.device=cuda"}));
  EXPECT_TRUE(IsFast({"resources.device=cuda", "train.precision=bf16"}));
}

TEST(CostTest, PredictsTheReferenceWhereTheTrainerWouldTakeIt) {
  EXPECT_FALSE(IsFast({"model.engine=reference"}));
  EXPECT_FALSE(IsFast({"resources.device=cuda", "model.k_top=40"}));
  EXPECT_FALSE(IsFast({"resources.device=cuda", "model.recall=all"}));
  EXPECT_FALSE(IsFast({"train.precision=bf16"}));
}

TEST(CostTest, SaysWhatTheFiguresAreOf) {
  EXPECT_THAT(Cost({"resources.replicas=4"}).basis(), HasSubstr("one thread"));
  EXPECT_THAT(Cost({"resources.replicas=4"}).basis(), HasSubstr("16 rows a replica, sequences of 120 steps"));
  EXPECT_THAT(Cost({"resources.device=cuda"}).basis(), StartsWith("fused engine on one GPU"));
  EXPECT_THAT(Cost({"resources.device=cuda", "model.engine=reference"}).basis(),
              StartsWith("reference engine on one GPU"));
  EXPECT_THAT(Cost({"model.engine=reference"}).basis(), StartsWith("reference engine on CPUs"));
}

// Everything beside the engine, by hand: values, gradients, two moments and the checkpoint's copy of values and
// moments; (rows, steps) floats and int64 targets.
TEST(CostTest, MemoryIsWhatTheEngineAllocatesAndWhatTheTrainerHolds) {
  for (const std::vector<std::string>& settings :
       {std::vector<std::string>{"model.kind=lstm", "task.length=980", "model.hidden_size=512"},
        {"task.length=4980", "model.hidden_size=64"},
        {"task.length=1980", "model.recompute=on"},
        {"model.score=separable", "task.length=2980"},
        {"model.kind=attention", "task.length=780"}}) {
    const v1::JobSpec spec = Spec(settings);
    const v1::CostEstimate cost = EstimateCost(spec);
    const int64_t steps = spec.task().length() + 20;
    const model::TaskShape shape{1, 0, 10, model::LossKind::kCrossEntropyEveryStep};
    const auto engine = static_cast<int64_t>(model::fast::TrainingBytes(ToModelConfig(spec), shape, 64, steps, 1));
    EXPECT_EQ(cost.peak_bytes(), engine + 7 * 4 * cost.parameters() + 64 * steps * (4 + 8)) << settings[0];
  }
}

TEST(CostTest, MemoryHoldsTheLongestEvaluation) {
  const v1::JobSpec spec = Spec({"eval.lengths=[100,200000]"});
  const v1::CostEstimate cost = EstimateCost(spec);
  const model::TaskShape shape{1, 0, 10, model::LossKind::kCrossEntropyEveryStep};
  const auto engine = static_cast<int64_t>(model::fast::EvaluationBytes(ToModelConfig(spec), shape, 64, 200020, 1));
  EXPECT_GE(cost.peak_bytes(), engine);
  EXPECT_LT(Cost({}).peak_bytes(), engine / 10);
  EXPECT_EQ(Cost({"eval.final_lengths=[200000]"}).peak_bytes(), cost.peak_bytes());
}

TEST(CostTest, MemoryFollowsTheOptimiserAndTheExchange) {
  const v1::CostEstimate adam = Cost({});
  EXPECT_EQ(adam.peak_bytes() - Cost({"train.optimizer=sgd"}).peak_bytes(), 4 * 4 * adam.parameters());
  const std::vector<std::string> momentum = {"train.optimizer=sgd", "train.momentum=0.9"};
  EXPECT_EQ(adam.peak_bytes() - Cost(momentum).peak_bytes(), 2 * 4 * adam.parameters());
  // The same share of rows: only the exchange differs.
  EXPECT_EQ(Cost({"train.batch_size=128", "resources.replicas=2", "eval.sequences=1024"}).peak_bytes(),
            adam.peak_bytes() + 4 * adam.parameters());
}

TEST(CostTest, GrowsWithTheLengthForEveryKind) {
  for (const std::string kind : {"kind=sab", "score=separable", "kind=lstm", "kind=attention"}) {
    v1::CostEstimate last;
    for (const std::string length : {"30", "100", "300", "1000", "3000", "5000"}) {
      const v1::CostEstimate cost = Cost({"model." + kind, "task.length=" + length});
      EXPECT_GT(cost.peak_bytes(), last.peak_bytes()) << kind << " at " << length;
      EXPECT_GT(cost.flops_per_step(), last.flops_per_step()) << kind << " at " << length;
      EXPECT_GT(cost.seconds_per_step(), last.seconds_per_step()) << kind << " at " << length;
      last = cost;
    }
  }
}

TEST(CostTest, ACurriculumCountsWithItsLongestSequence) {
  EXPECT_EQ(Cost({"curriculum={lengths: [10, 50, 100], advance_when: accuracy >= 0.9}"}).peak_bytes(),
            Cost({}).peak_bytes());
}

TEST(CostTest, ScoresCostTimeOnlyWhereTheyAreComputed) {
  const double separable = Cost({"model.score=separable", "task.length=4980"}).seconds_per_step();
  const double bounded = Cost({"model.memory.capacity=64", "task.length=4980"}).seconds_per_step();
  const double mlp = Cost({"task.length=4980"}).seconds_per_step();
  const double attention = Cost({"model.kind=attention", "task.length=4980"}).seconds_per_step();
  EXPECT_LT(separable, bounded);
  EXPECT_LT(bounded, mlp);
  EXPECT_LT(mlp, attention);
}

TEST(CostTest, OfTheReferenceMemoryAgreesWithWhatWasMeasured) {
  const auto peak = [](const std::string& length) {
    return static_cast<double>(Cost({"model.engine=reference", "task.length=" + length}).peak_bytes());
  };
  EXPECT_NEAR(peak("100"), 1.1e9, 0.2e9);
  EXPECT_NEAR(peak("300"), 4.6e9, 0.5e9);
}

TEST(CostTest, ACpuReplicaIsPlacedByItsPredictionAndItsProcess) {
  const int64_t peak = Cost({}).peak_bytes();
  const int64_t placed = PlacedCpuBytes(Spec({}));
  EXPECT_GT(placed, peak + (int64_t{140} << 20));
  EXPECT_LE(placed, 5 * (7 * peak / 6 + (int64_t{144} << 20)) / 4);
  EXPECT_GT(PlacedCpuBytes(Spec({"task.length=4980"})), placed);
  EXPECT_EQ(PlacedCpuBytes(Spec({"resources.memory=4GiB"})), int64_t{4} << 30);
  EXPECT_EQ(PlacedCpuBytes(Spec({"resources.memory=4GiB", "model.engine=reference"})), int64_t{4} << 30);
  // Nothing is known well enough, or it is not for CPUs.
  EXPECT_EQ(PlacedCpuBytes(Spec({"model.engine=reference"})), 0);
  EXPECT_EQ(PlacedCpuBytes(Spec({"resources.device=cuda"})), 0);
  EXPECT_EQ(PlacedGpuBytes(Spec({"resources.device=cuda", "resources.min_gpu_memory=40GiB"})), int64_t{40} << 30);
}

}  // namespace
}  // namespace sab::spec
