// Gradients of the reference engine against finite differences and against the definition's formulas, in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/engine.h"
#include "tests/model/reference_batch.h"
#include "tests/model/reference_plain.h"

namespace sab::model {
namespace {

constexpr TaskShape kShape{.inputs = 2, .outputs = 3};

// What the engine computed for a batch.
struct Computed {
  PassSums sums;
  PlainParameters gradients;
};

Computed Compute(const ModelConfig& config, ParameterSet& parameters, const Batch& batch) {
  parameters.gradients().zero_();
  const PassSums sums = MakeEngine(config, kShape, parameters)->ForwardBackward(batch, 1);
  return {sums, ToPlain(parameters, /*gradients=*/true)};
}

// The largest difference, relative to the largest value of its tensor and at least to `floor`.
double Distance(const PlainParameters& found, const PlainParameters& expected, double floor = 1e-6) {
  double worst = 0;
  for (const auto& [name, values] : expected) {
    double largest = floor, difference = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      largest = std::max(largest, std::abs(values[i]));
      difference = std::max(difference, std::abs(values[i] - found.at(name)[i]));
    }
    worst = std::max(worst, difference / largest);
  }
  return worst;
}

// Central differences of the loss with the states that truncation cuts off held where they are.
PlainParameters FiniteDifferences(const ModelConfig& config, PlainParameters parameters, const Batch& batch) {
  constexpr double kStep = 1e-5;
  const Boundaries fixed = RunPlain(config, parameters, batch).boundaries;
  const PlainOptions options{.fixed = &fixed, .forward_only = true};
  PlainParameters differences = parameters;
  for (auto& [name, values] : parameters) {
    for (size_t i = 0; i < values.size(); ++i) {
      const double value = values[i];
      values[i] = value + kStep;
      const double above = RunPlain(config, parameters, batch, options).loss;
      values[i] = value - kStep;
      const double below = RunPlain(config, parameters, batch, options).loss;
      values[i] = value;
      differences[name][i] = (above - below) / (2 * kStep);
    }
  }
  return differences;
}

ModelConfig SmallConfig() {
  return {.hidden_size = 3, .tie_guard = 0, .engine = EngineKind::kReference, .precision = Precision::kFp64};
}

struct Point {
  ModelConfig config;
  int64_t steps;
};

// Compares at the first seed where every ranking is clear: differences across a change of ranking mean nothing.
void ExpectGradientsHold(Point point) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    point.config.seed = seed;
    ParameterSet parameters(point.config, kShape, at::kCPU);
    const Batch batch = RandomBatch(kShape, {.rows = 2, .steps = point.steps, .seed = seed});
    const PlainParameters values = ToPlain(parameters, /*gradients=*/false);
    const PlainResult plain = RunPlain(point.config, values, batch);
    if (plain.smallest_gap < 1e-3 || plain.smallest_z < 1e-3) continue;
    const Computed computed = Compute(point.config, parameters, batch);
    EXPECT_NEAR(computed.sums.loss_sum, plain.loss, 1e-10);
    EXPECT_LT(Distance(computed.gradients, plain.gradients), 1e-9) << "formulas, seed " << seed;
    EXPECT_LT(Distance(computed.gradients, FiniteDifferences(point.config, values, batch), 1e-3), 1e-5)
        << "finite differences, seed " << seed;
    return;
  }
  FAIL() << "no seed had clear rankings";
}

std::vector<Point> Grid(Score score) {
  std::vector<Point> points;
  for (int64_t k_trunc : {1, 5, 100}) {
    for (int64_t k_att : {1, 2, 5}) {
      for (int64_t k_top : {1, 5, 10, 100}) {
        ModelConfig config = SmallConfig();
        config.score = score;
        config.k_trunc = k_trunc;
        config.k_att = k_att;
        config.k_top = k_top;
        config.init_std = 1;
        config.memory_state = (k_trunc + k_att + k_top) % 2 ? MemoryState::kRecalled : MemoryState::kProvisional;
        config.dense = k_top % 2 ? Dense::kRaw : Dense::kSoftmax;
        points.push_back({config, 13});
      }
    }
  }
  return points;
}

class GradientGridTest : public testing::TestWithParam<Score> {};

TEST_P(GradientGridTest, HoldsOverTheGridOfTruncationWritesAndRecalls) {
  for (const Point& point : Grid(GetParam())) {
    SCOPED_TRACE(testing::Message() << "k_trunc " << point.config.k_trunc << " k_att " << point.config.k_att
                                    << " k_top " << point.config.k_top);
    ExpectGradientsHold(point);
  }
}

TEST_P(GradientGridTest, HoldsWhenTheSequenceEndsBeforeTheFirstWrite) {
  ModelConfig config = SmallConfig();
  config.score = GetParam();
  config.k_att = 5;
  ExpectGradientsHold({config, 4});
}

TEST_P(GradientGridTest, HoldsWithEveryDenseAndMemoryState) {
  for (Dense dense : {Dense::kRaw, Dense::kSoftmax}) {
    for (MemoryState memory_state : {MemoryState::kRecalled, MemoryState::kProvisional}) {
      ModelConfig config = SmallConfig();
      config.score = GetParam();
      config.k_top = 2;
      config.dense = dense;
      config.memory_state = memory_state;
      ExpectGradientsHold({config, 12});
    }
  }
}

TEST_P(GradientGridTest, HoldsWhenOnlyHIsTruncated) {
  ModelConfig config = SmallConfig();
  config.score = GetParam();
  config.k_trunc = 3;
  config.k_top = 2;
  config.truncate = Truncate::kH;
  ExpectGradientsHold({config, 12});
}

INSTANTIATE_TEST_SUITE_P(Scores, GradientGridTest, testing::Values(Score::kMlp, Score::kSeparable),
                         [](const auto& info) { return info.param == Score::kMlp ? "Mlp" : "Separable"; });

TEST(LstmGradientTest, HoldsFullAndTruncated) {
  for (int64_t k_trunc : {0, 1, 5}) {
    for (Truncate truncate : {Truncate::kBoth, Truncate::kH}) {
      ModelConfig config = SmallConfig();
      config.kind = Kind::kLstm;
      config.k_trunc = k_trunc;
      config.truncate = truncate;
      ExpectGradientsHold({config, 12});
    }
  }
}

// A network whose cell forgets everything and sees its input only: equal inputs give memories equal to the last bit.
class TieTest : public testing::Test {
 protected:
  TieTest() {
    config_.k_att = 1;
    config_.k_top = 2;
    config_.k_trunc = 4;
    config_.init_std = 1;
  }

  // Inputs of 12 steps: those named differ from all others.
  Batch BatchWithDistinct(const std::vector<int64_t>& steps) {
    Batch batch = RandomBatch(kShape, {.rows = 1, .steps = 12});
    const at::Tensor plateau = batch.inputs.select(1, 11).clone();
    for (int64_t t = 0; t < 12; ++t) {
      if (std::find(steps.begin(), steps.end(), t) == steps.end()) batch.inputs.select(1, t).copy_(plateau);
    }
    return batch;
  }

  ParameterSet ForgetfulParameters(uint64_t seed) {
    config_.seed = seed;
    ParameterSet parameters(config_, kShape, at::kCPU);
    parameters.Get("cell.bias_ih").value.narrow(0, 3, 3).fill_(-80);  // forget gates
    parameters.Get("cell.weight_hh").value.zero_();
    parameters.Get("cell.weight_ih").value.mul_(3);
    return parameters;
  }

  ModelConfig config_ = SmallConfig();
};

TEST_F(TieTest, EqualScoresAreTakenInTheOrderOfWriting) {
  int told_apart = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    ParameterSet parameters = ForgetfulParameters(seed);
    const Batch batch = BatchWithDistinct({2, 6});
    const PlainParameters values = ToPlain(parameters, false);
    const PlainResult plain = RunPlain(config_, values, batch);
    const Computed computed = Compute(config_, parameters, batch);
    ASSERT_LT(plain.smallest_gap, 1e-12) << "no tie was made";
    EXPECT_LT(Distance(computed.gradients, plain.gradients), 1e-8) << "seed " << seed;
    const PlainResult latest = RunPlain(config_, values, batch, {.latest_tie_first = true});
    told_apart += Distance(latest.gradients, plain.gradients) > 1e-3;
  }
  EXPECT_GT(told_apart, 5) << "the other order of ties would not have been noticed";
}

TEST_F(TieTest, APlateauOfEqualScoresIsNotRecalledAsAWhole) {
  ParameterSet parameters = ForgetfulParameters(1);
  const Batch batch = BatchWithDistinct({});
  const PlainResult plain = RunPlain(config_, ToPlain(parameters, false), batch);
  EXPECT_DOUBLE_EQ(plain.smallest_z, 1e-7);  // all selected are equal
  const Computed computed = Compute(config_, parameters, batch);
  EXPECT_NEAR(computed.sums.loss_sum, plain.loss, 1e-10);
  EXPECT_LT(Distance(computed.gradients, plain.gradients), 1e-8);
}

// Steps 5 and 8 differ from the plateau by 1e-4: Z is small and the gradient of the scores large.
TEST_F(TieTest, TheGuardHoldsBackTheScoresGradientNearTiesAndLeavesTheValuePath) {
  Batch batch = BatchWithDistinct({});
  batch.inputs.select(1, 5).add_(1e-4);
  batch.inputs.select(1, 8).sub_(1e-4);
  config_.tie_guard = 0.01;
  uint64_t seed = 1;  // the first where m_1 is not among the best: it is no part of the plateau
  while (RunPlain(config_, ToPlain(ForgetfulParameters(seed), false), batch).guarded <= 3) ASSERT_LT(++seed, 100u);
  ParameterSet parameters = ForgetfulParameters(seed);
  const PlainResult plain = RunPlain(config_, ToPlain(parameters, false), batch);
  const Computed guarded = Compute(config_, parameters, batch);
  config_.tie_guard = 0;
  const Computed unguarded = Compute(config_, parameters, batch);
  EXPECT_EQ(guarded.sums.guarded_count, plain.guarded);
  EXPECT_EQ(unguarded.sums.guarded_count, 0);
  EXPECT_DOUBLE_EQ(guarded.sums.loss_sum, unguarded.sums.loss_sum);
  EXPECT_LT(Distance(guarded.gradients, plain.gradients), 1e-8);
  EXPECT_GT(Distance(guarded.gradients, unguarded.gradients), 1e-3);
}

TEST_F(TieTest, TheGuardActsRowByRowAndStepByStep) {
  config_.seed = 4;
  ParameterSet parameters(config_, kShape, at::kCPU);
  const Batch batch = RandomBatch(kShape, {.rows = 4, .steps = 15, .seed = 9});
  config_.tie_guard = 0.05;
  const PlainResult plain = RunPlain(config_, ToPlain(parameters, false), batch);
  ASSERT_GT(plain.guarded, 5);
  ASSERT_LT(plain.guarded, 4 * 12);
  const Computed computed = Compute(config_, parameters, batch);
  EXPECT_EQ(computed.sums.guarded_count, plain.guarded);
  EXPECT_LT(Distance(computed.gradients, plain.gradients), 1e-9);
}

// Scores of about 20: beside them fp32 has no 1e-7, and a comparison with delta + 1e-7 would lose or add memories.
TEST(SinglePrecisionTest, SelectsAsDoubleDoesAmongScoresFarAboveEpsilon) {
  for (Score score : {Score::kMlp, Score::kSeparable}) {
    ModelConfig config = SmallConfig();
    config.score = score;
    config.k_att = 1;
    config.k_top = 2;
    config.hidden_size = 16;
    ParameterSet twice(config, kShape, at::kCPU);
    const char* name = score == Score::kMlp ? "attention.score.weight" : "attention.memory_score.weight";
    twice.Get(name).value.mul_(30);
    config.precision = Precision::kFp32;
    ParameterSet once(config, kShape, at::kCPU);
    once.values().copy_(twice.values());
    twice.values().copy_(once.values());
    const Batch batch = RandomBatch(kShape, {.rows = 3, .steps = 20});
    const Computed in_single = Compute(config, once, batch);
    config.precision = Precision::kFp64;
    const Computed in_double = Compute(config, twice, batch);
    EXPECT_NEAR(in_single.sums.loss_sum, in_double.sums.loss_sum, 1e-3);
    EXPECT_LT(Distance(in_single.gradients, in_double.gradients), 5e-3);
  }
}

TEST(SeparableScoreTest, TheQueryWeightHasNoGradientAtAllUnderSoftmax) {
  ModelConfig config = SmallConfig();
  config.score = Score::kSeparable;
  config.k_top = 3;
  ParameterSet parameters(config, kShape, at::kCPU);
  const Batch batch = RandomBatch(kShape, {.steps = 20});
  const Computed softmax = Compute(config, parameters, batch);
  for (double value : softmax.gradients.at("attention.query_score.weight")) EXPECT_EQ(value, 0);
  config.dense = Dense::kRaw;
  const Computed raw = Compute(config, parameters, batch);
  for (double value : raw.gradients.at("attention.query_score.weight")) EXPECT_GT(std::abs(value), 1e-6);
}

}  // namespace
}  // namespace sab::model
