// What the reference engine does with batches and settings: everything but the correctness of its gradients.
#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "model/engine.h"
#include "tests/model/reference_batch.h"

namespace sab::model {
namespace {

struct Computed {
  PassSums sums;
  at::Tensor gradients;
};

ModelConfig SmallConfig() {
  return {.hidden_size = 6, .k_att = 1, .k_top = 3, .engine = EngineKind::kReference, .precision = Precision::kFp64};
}

std::vector<ModelConfig> AllKinds() {
  std::vector<ModelConfig> configs(5, SmallConfig());
  configs[1].score = Score::kSeparable;
  configs[2].kind = Kind::kLstm;
  configs[3].kind = Kind::kAttention;
  configs[4].recall = Recall::kRandom;
  return configs;
}

Computed Compute(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters, const Batch& batch) {
  parameters.gradients().zero_();
  const PassSums sums = MakeEngine(config, shape, parameters)->ForwardBackward(batch, 1);
  return {sums, parameters.gradients().clone()};
}

Computed Compute(const ModelConfig& config, const TaskShape& shape, const Batch& batch) {
  ParameterSet parameters(config, shape, at::kCPU);
  return Compute(config, shape, parameters, batch);
}

void ExpectNear(const at::Tensor& found, const at::Tensor& expected, double tolerance = 1e-10) {
  ASSERT_EQ(found.sizes(), expected.sizes());
  EXPECT_LE((found - expected).abs().max().item<double>(), tolerance);
}

constexpr TaskShape kShape{.inputs = 2, .outputs = 4};

TEST(ReferenceEngineTest, RowsDoNotDependOnTheirPlaceInTheBatch) {
  const at::Tensor order = at::tensor({2, 0, 3, 1}, at::TensorOptions().dtype(at::kLong));
  for (const ModelConfig& config : AllKinds()) {
    const Batch batch = RandomBatch(kShape, {.rows = 4, .steps = 20, .ragged = true});
    const Batch permuted{batch.inputs.index_select(0, order), batch.targets.index_select(0, order),
                         batch.lengths.index_select(0, order)};
    ParameterSet parameters(config, kShape, at::kCPU);
    const auto engine = MakeEngine(config, kShape, parameters);
    ExpectNear(engine->Outputs(permuted), engine->Outputs(batch).index_select(0, order));
    ExpectNear(Compute(config, kShape, permuted).gradients, Compute(config, kShape, batch).gradients);
  }
}

TEST(ReferenceEngineTest, ARaggedBatchIsTheSumOfItsRows) {
  for (LossKind loss : {LossKind::kCrossEntropyEveryStep, LossKind::kCrossEntropyLastStep, LossKind::kMseLastStep}) {
    for (ModelConfig config : AllKinds()) {
      config.tie_guard = 0.2;
      TaskShape shape = kShape;
      shape.loss = loss;
      Batch batch = RandomBatch(shape, {.rows = 5, .steps = 18, .ragged = true, .seed = 4});
      batch.metric_from = 3;
      const Computed together = Compute(config, shape, batch);
      PassSums sums;
      at::Tensor gradients = at::zeros_like(together.gradients);
      for (int64_t row = 0; row < batch.rows(); ++row) {
        const int64_t length = batch.lengths[row].item<int64_t>();
        Batch alone{batch.inputs.narrow(0, row, 1).narrow(1, 0, length), batch.targets.narrow(0, row, 1), {}, 3};
        if (loss == LossKind::kCrossEntropyEveryStep) alone.targets = alone.targets.narrow(1, 0, length);
        const Computed one = Compute(config, shape, alone);
        sums += one.sums;
        gradients += one.gradients;
      }
      ExpectNear(together.gradients, gradients);
      EXPECT_NEAR(together.sums.loss_sum, sums.loss_sum, 1e-10);
      EXPECT_EQ(together.sums.loss_count, sums.loss_count);
      EXPECT_NEAR(together.sums.scored_loss_sum, sums.scored_loss_sum, 1e-10);
      EXPECT_EQ(together.sums.scored_count, sums.scored_count);
      EXPECT_EQ(together.sums.correct_count, sums.correct_count);
      EXPECT_EQ(together.sums.guarded_count, sums.guarded_count);
      EXPECT_NEAR(together.sums.max_hidden_norm, sums.max_hidden_norm, 1e-12);
    }
  }
}

TEST(ReferenceEngineTest, EvaluationAddsUpToTheSameInPieces) {
  for (LossKind loss : {LossKind::kCrossEntropyEveryStep, LossKind::kCrossEntropyLastStep, LossKind::kMseLastStep}) {
    for (const ModelConfig& config : AllKinds()) {
      TaskShape shape = kShape;
      shape.loss = loss;
      Batch batch = RandomBatch(shape, {.rows = 4, .steps = 150, .ragged = true, .seed = 2});
      batch.metric_from = 70;
      ParameterSet parameters(config, shape, at::kCPU);
      const auto engine = MakeEngine(config, shape, parameters);
      const PassSums trained = engine->ForwardBackward(batch, 1), evaluated = engine->Evaluate(batch);
      EXPECT_NEAR(evaluated.loss_sum, trained.loss_sum, 1e-9);
      EXPECT_EQ(evaluated.loss_count, trained.loss_count);
      EXPECT_NEAR(evaluated.scored_loss_sum, trained.scored_loss_sum, 1e-9);
      EXPECT_EQ(evaluated.scored_count, trained.scored_count);
      EXPECT_EQ(evaluated.correct_count, trained.correct_count);
      EXPECT_EQ(evaluated.guarded_count, 0);
      EXPECT_NEAR(evaluated.max_hidden_norm, trained.max_hidden_norm, 1e-12);
    }
  }
}

TEST(ReferenceEngineTest, FiguresCountScoredPositionsOnly) {
  const ModelConfig config = SmallConfig();
  Batch batch = RandomBatch(kShape, {.rows = 6, .steps = 12});
  batch.metric_from = 9;
  ParameterSet parameters(config, kShape, at::kCPU);
  const auto engine = MakeEngine(config, kShape, parameters);
  const PassSums sums = engine->Evaluate(batch);
  const at::Tensor outputs = engine->Outputs(batch);
  const at::Tensor losses = -outputs.log_softmax(2).gather(2, batch.targets.unsqueeze(2)).squeeze(2);
  const at::Tensor right = outputs.argmax(2).eq(batch.targets);
  EXPECT_NEAR(sums.loss_sum, losses.sum().item<double>(), 1e-10);
  EXPECT_EQ(sums.loss_count, 6 * 12);
  EXPECT_NEAR(sums.scored_loss_sum, losses.narrow(1, 9, 3).sum().item<double>(), 1e-10);
  EXPECT_EQ(sums.scored_count, 6 * 3);
  EXPECT_EQ(sums.correct_count, right.narrow(1, 9, 3).sum().item<int64_t>());
  EXPECT_GT(right.sum().item<int64_t>(), sums.correct_count);
}

TEST(ReferenceEngineTest, GradientsAreAddedAndScaled) {
  const ModelConfig config = SmallConfig();
  const Batch batch = RandomBatch(kShape, {});
  const at::Tensor once = Compute(config, kShape, batch).gradients;
  ParameterSet parameters(config, kShape, at::kCPU);
  parameters.gradients().fill_(1);
  MakeEngine(config, kShape, parameters)->ForwardBackward(batch, 0.25);
  ExpectNear(parameters.gradients(), 1 + once * 0.25);
}

TEST(ReferenceEngineTest, ABatchWithoutRowsAddsNothing) {
  const Batch batch = RandomBatch(kShape, {.rows = 4});
  const Batch none{batch.inputs.narrow(0, 0, 0), batch.targets.narrow(0, 0, 0)};
  for (const ModelConfig& config : AllKinds()) {
    const Computed computed = Compute(config, kShape, none);
    EXPECT_EQ(computed.sums.loss_count, 0);
    EXPECT_EQ(computed.sums.loss_sum, 0);
    EXPECT_EQ(computed.gradients.abs().sum().item<double>(), 0);
  }
}

TEST(ReferenceEngineTest, SymbolsAreOneHotInput) {
  const TaskShape symbols{.inputs = 0, .vocabulary = 7, .outputs = 4}, floats{.inputs = 7, .outputs = 4};
  for (const ModelConfig& config : AllKinds()) {
    if (config.recall == Recall::kRandom) continue;  // what it draws depends on the input's bytes
    Batch batch = RandomBatch(symbols, {.steps = 20, .ragged = true});
    const Computed by_symbol = Compute(config, symbols, batch);
    batch.inputs = at::one_hot(batch.inputs, 7).to(at::kDouble);
    const Computed by_float = Compute(config, floats, batch);
    EXPECT_NEAR(by_symbol.sums.loss_sum, by_float.sums.loss_sum, 1e-10);
    ExpectNear(by_symbol.gradients, by_float.gradients);
  }
}

TEST(ReferenceEngineTest, RecallAllIsRecallTopWithRoomForAll) {
  ModelConfig all = SmallConfig(), top = SmallConfig();
  all.recall = Recall::kAll;
  top.k_top = 100;
  const Batch batch = RandomBatch(kShape, {.steps = 20});
  ExpectNear(Compute(all, kShape, batch).gradients, Compute(top, kShape, batch).gradients);
}

TEST(ReferenceEngineTest, RandomRecallFollowsTheSeedAndNothingElse) {
  ModelConfig config = SmallConfig();
  config.recall = Recall::kRandom;
  const Batch batch = RandomBatch(kShape, {.steps = 20});
  ParameterSet parameters(config, kShape, at::kCPU);
  const auto engine = MakeEngine(config, kShape, parameters);
  const at::Tensor outputs = engine->Outputs(batch);
  EXPECT_TRUE(engine->Outputs(batch).equal(outputs));
  EXPECT_TRUE(MakeEngine(config, kShape, parameters)->Outputs(batch).equal(outputs));
  config.seed = 77;
  EXPECT_FALSE(MakeEngine(config, kShape, parameters)->Outputs(batch).equal(outputs));
}

TEST(ReferenceEngineTest, ACapacityThatIsNeverReachedChangesNothing) {
  const Batch batch = RandomBatch(kShape, {.steps = 20});
  ModelConfig config = SmallConfig();
  const Computed unbounded = Compute(config, kShape, batch);
  config.memory_capacity = 21;
  for (MemoryPolicy policy : {MemoryPolicy::kRecent, MemoryPolicy::kSalient}) {
    config.memory_policy = policy;
    ExpectNear(Compute(config, kShape, batch).gradients, unbounded.gradients, 0);
  }
}

// Which steps the gradient of a loss at the last step arrives at: those whose input channel, used at no other step,
// gets one.
class ReachTest : public testing::Test {
 protected:
  // 1-based.
  static std::vector<int64_t> Reached(const ModelConfig& config, int64_t steps) {
    const TaskShape shape{.inputs = steps, .outputs = 3, .loss = LossKind::kCrossEntropyLastStep};
    const Batch batch{at::eye(steps, at::TensorOptions().dtype(at::kDouble)).unsqueeze(0),
                      at::zeros({1}, at::TensorOptions().dtype(at::kLong))};
    ParameterSet parameters(config, shape, at::kCPU);
    Compute(config, shape, parameters, batch);
    const at::Tensor by_channel = parameters.Get("cell.weight_ih").gradient.abs().sum(0);
    std::vector<int64_t> reached;
    for (int64_t t = 0; t < steps; ++t) {
      if (by_channel[t].item<double>() > 0) reached.push_back(t + 1);
    }
    return reached;
  }

  // Every memory is recalled, so that all windows behind memories show.
  static ModelConfig RecallEverything(int64_t k_trunc, int64_t k_att) {
    ModelConfig config = SmallConfig();
    config.recall = Recall::kAll;
    config.k_trunc = k_trunc;
    config.k_att = k_att;
    return config;
  }

  using Steps = std::vector<int64_t>;
};

TEST_F(ReachTest, TruncatedBpttReachesTheGridsLastBlock) {
  ModelConfig config = SmallConfig();
  config.kind = Kind::kLstm;
  config.k_trunc = 5;
  EXPECT_EQ(Reached(config, 12), (Steps{10, 11, 12}));
  EXPECT_EQ(Reached(config, 10), (Steps{10}));
  EXPECT_EQ(Reached(config, 4), (Steps{1, 2, 3, 4}));
  config.k_trunc = 0;
  EXPECT_EQ(Reached(config, 7), (Steps{1, 2, 3, 4, 5, 6, 7}));
}

TEST_F(ReachTest, TheWindowBehindAMemoryGoesToItsBlocksStart) {
  EXPECT_EQ(Reached(RecallEverything(5, 7), 16), (Steps{5, 6, 7, 10, 11, 12, 13, 14, 15, 16}));  // memories 7, 14
  EXPECT_EQ(Reached(RecallEverything(5, 3), 11), (Steps{1, 2, 3, 5, 6, 7, 8, 9, 10, 11}));       // memories 3, 6, 9
  EXPECT_EQ(Reached(RecallEverything(5, 100), 11), (Steps{10, 11}));                             // none
}

TEST_F(ReachTest, WritesOnTheGridOfTruncationLeaveOneCellBehindEachMemory) {
  EXPECT_EQ(Reached(RecallEverything(5, 5), 16), (Steps{5, 10, 15, 16}));
  EXPECT_EQ(Reached(RecallEverything(3, 6), 14), (Steps{6, 12, 13, 14}));
}

TEST_F(ReachTest, WithoutMentalUpdatesNothingBehindAMemoryIsReached) {
  ModelConfig config = RecallEverything(5, 3);
  config.mental_updates = false;
  EXPECT_EQ(Reached(config, 16), (Steps{15, 16}));
}

TEST_F(ReachTest, RecallLastReachesTheLastMemoriesOnly) {
  ModelConfig config = RecallEverything(2, 2);
  config.recall = Recall::kLast;
  config.k_top = 2;
  // At step 11 memories 8 and 10; step 10 itself recalls 6 and 8; step 8 is cut from step 7.
  EXPECT_EQ(Reached(config, 11), (Steps{6, 8, 10, 11}));
}

TEST_F(ReachTest, ABoundedMemoryKeepsTheLastWrites) {
  ModelConfig config = RecallEverything(1, 1);
  config.memory_state = MemoryState::kProvisional;
  config.memory_capacity = 4;  // the zero state and three more
  EXPECT_EQ(Reached(config, 9), (Steps{6, 7, 8, 9}));
}

// |h| element by element is at most 2 when provisional states, each below 1, are averaged; recalled states may grow
// without end.
TEST(NormTest, ProvisionalMemoriesAndNormalisedWeightsBoundTheState) {
  for (Score score : {Score::kMlp, Score::kSeparable}) {
    ModelConfig config = SmallConfig();
    config.score = score;
    config.init_std = 3;
    const Batch batch = RandomBatch(kShape, {.steps = 1500});
    ParameterSet parameters(config, kShape, at::kCPU);
    parameters.Get("cell.weight_ih").value.mul_(8);
    parameters.Get("cell.weight_hh").value.mul_(8);
    const double bound = 2 * std::sqrt(6.0);
    EXPECT_LE(MakeEngine(config, kShape, parameters)->Evaluate(batch).max_hidden_norm, bound);
    config.memory_state = MemoryState::kRecalled;
    EXPECT_GT(MakeEngine(config, kShape, parameters)->Evaluate(batch).max_hidden_norm, bound);
  }
}

TEST(PrecisionTest, SingleAgreesWithDouble) {
  for (ModelConfig config : AllKinds()) {
    ParameterSet twice(config, kShape, at::kCPU);
    config.precision = Precision::kFp32;
    ParameterSet once(config, kShape, at::kCPU);
    twice.values().copy_(once.values());
    const Batch batch = RandomBatch(kShape, {.steps = 30, .type = at::kFloat});
    const Computed in_single = Compute(config, kShape, once, batch);
    config.precision = Precision::kFp64;
    const Computed in_double = Compute(config, kShape, twice, batch);
    EXPECT_NEAR(in_single.sums.loss_sum, in_double.sums.loss_sum, 1e-3);
    const double largest = in_double.gradients.abs().max().item<double>();
    ExpectNear(in_single.gradients.to(at::kDouble), in_double.gradients, 5e-3 * largest);
  }
}

TEST(PrecisionTest, HalfPrecisionProductsGiveNearbyOutputs) {
  for (ModelConfig config : AllKinds()) {
    config.precision = Precision::kFp32;
    ParameterSet parameters(config, kShape, at::kCPU);
    const Batch batch = RandomBatch(kShape, {.steps = 10, .type = at::kFloat});
    const at::Tensor outputs = MakeEngine(config, kShape, parameters)->Outputs(batch);
    config.precision = Precision::kBf16;
    const auto half = MakeEngine(config, kShape, parameters);
    EXPECT_EQ(half->Outputs(batch).scalar_type(), at::kFloat);
    EXPECT_FALSE(half->Outputs(batch).equal(outputs));
    ExpectNear(half->Outputs(batch), outputs, 0.1);
    half->ForwardBackward(batch, 1);
    EXPECT_TRUE(std::isfinite(parameters.gradients().abs().sum().item<double>()));
  }
}

TEST(MakeEngineTest, AutomaticChoiceServesEveryKind) {
  for (ModelConfig config : AllKinds()) {
    const Batch batch = RandomBatch(kShape, {.steps = 9});
    const double reference = Compute(config, kShape, batch).sums.loss_sum;
    config.engine = EngineKind::kAuto;
    EXPECT_NEAR(Compute(config, kShape, batch).sums.loss_sum, reference, 1e-8);
  }
}

}  // namespace
}  // namespace sab::model
