#include "model/train/optimizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "model/train/schedule.h"

namespace sab::model {
namespace {

constexpr int64_t kCount = 1003;  // no multiple of a vector's width

at::Tensor Numbers(double phase, at::ScalarType type) {
  return at::sin(at::arange(kCount, at::kDouble) * 0.37 + phase).to(type);
}

// Adam as Kingma and Ba write it, one element at a time in double.
struct ScalarAdam {
  double mean = 0, square = 0;
  int step = 0;
  double Update(double value, double gradient, const OptimizerOptions& options, double learning_rate) {
    ++step;
    gradient += options.weight_decay * value;
    mean = options.beta1 * mean + (1 - options.beta1) * gradient;
    square = options.beta2 * square + (1 - options.beta2) * gradient * gradient;
    const double mean_hat = mean / (1 - std::pow(options.beta1, step));
    const double square_hat = square / (1 - std::pow(options.beta2, step));
    return value - learning_rate * mean_hat / (std::sqrt(square_hat) + options.epsilon);
  }
};

void ExpectAdamFollowsItsFormula(at::ScalarType type, double tolerance) {
  OptimizerOptions options;
  options.weight_decay = 0.01;
  at::Tensor values = Numbers(0, type);
  auto optimizer = MakeOptimizer(options, values);
  std::vector<ScalarAdam> scalars(kCount);
  std::vector<double> expected(kCount);
  for (int64_t i = 0; i < kCount; ++i) expected[i] = values[i].item<double>();
  for (int step = 0; step < 5; ++step) {
    at::Tensor gradients = Numbers(step + 1, type);
    const at::Tensor scaled = gradients.to(at::kDouble) * 0.5;
    optimizer->Step(values, gradients, 1e-2, 0.5);
    for (int64_t i = 0; i < kCount; ++i) {
      expected[i] = scalars[i].Update(expected[i], scaled.data_ptr<double>()[i], options, 1e-2);
    }
  }
  const at::Tensor got = values.to(at::kDouble);
  for (int64_t i = 0; i < kCount; ++i) ASSERT_NEAR(got.data_ptr<double>()[i], expected[i], tolerance) << i;
  EXPECT_EQ(optimizer->steps(), 5);
}

TEST(OptimizerTest, AdamFollowsItsFormulaInDouble) {
  ExpectAdamFollowsItsFormula(at::kDouble, 1e-14);
}
TEST(OptimizerTest, AdamFollowsItsFormulaInFloat) {
  ExpectAdamFollowsItsFormula(at::kFloat, 2e-6);
}

TEST(OptimizerTest, AdamAgreesWithLibTorchsFusedAdam) {
  at::Tensor values = Numbers(0, at::kFloat);
  at::Tensor theirs = values.clone(), mean = at::zeros_like(values), square = at::zeros_like(values);
  auto optimizer = MakeOptimizer({.weight_decay = 0.1}, values);
  for (int step = 1; step <= 10; ++step) {
    at::Tensor gradients = Numbers(step, at::kFloat);
    at::Tensor copy = gradients.clone(), count = at::full({}, static_cast<float>(step));
    optimizer->Step(values, gradients, 1e-3, 1);
    at::_fused_adam_({theirs}, {copy}, {mean}, {square}, {}, {count}, 1e-3, 0.9, 0.999, 0.1, 1e-8, false, false);
  }
  EXPECT_LT((values - theirs).abs().max().item<double>(), 1e-6);
}

TEST(OptimizerTest, SgdWithMomentumAndDecayFollowsItsFormula) {
  at::Tensor values = Numbers(0, at::kDouble);
  at::Tensor expected = values.clone(), buffer = at::zeros_like(values);
  auto optimizer = MakeOptimizer({.kind = OptimizerKind::kSgd, .momentum = 0.9, .weight_decay = 0.1}, values);
  for (int step = 0; step < 4; ++step) {
    at::Tensor gradients = Numbers(step + 1, at::kDouble);
    buffer = step == 0 ? gradients * 2 + 0.1 * expected : 0.9 * buffer + (gradients * 2 + 0.1 * expected);
    expected = expected - 0.05 * buffer;
    optimizer->Step(values, gradients, 0.05, 2);
  }
  EXPECT_LT((values - expected).abs().max().item<double>(), 1e-14);
}

TEST(OptimizerTest, PlainSgdKeepsNoState) {
  at::Tensor values = Numbers(0, at::kFloat);
  at::Tensor gradients = Numbers(1, at::kFloat);
  const at::Tensor expected = values - 0.1 * gradients;
  auto optimizer = MakeOptimizer({.kind = OptimizerKind::kSgd}, values);
  optimizer->Step(values, gradients, 0.1, 1);
  EXPECT_TRUE(optimizer->State().empty());
  EXPECT_LT((values - expected).abs().max().item<double>(), 1e-6);
}

TEST(OptimizerTest, ARestoredOptimizerGoesOnWithTheSameBits) {
  at::Tensor values = Numbers(0, at::kFloat);
  auto first = MakeOptimizer({}, values);
  at::Tensor gradients = Numbers(1, at::kFloat);
  first->Step(values, gradients, 1e-2, 1);
  at::Tensor copy = values.clone();
  auto second = MakeOptimizer({}, copy);
  second->Restore(first->State(), first->steps());
  at::Tensor next = Numbers(2, at::kFloat), same = next.clone();
  first->Step(values, next, 1e-2, 1);
  second->Step(copy, same, 1e-2, 1);
  EXPECT_TRUE(at::equal(values, copy));
}

TEST(OptimizerTest, RestoreNamesAMissingOrMisshapenTensor) {
  auto optimizer = MakeOptimizer({}, at::zeros({4}));
  try {
    optimizer->Restore({{"adam.exp_avg", at::zeros({4})}}, 1);
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("adam.exp_avg_sq is missing"), std::string::npos);
  }
  EXPECT_THROW(optimizer->Restore({{"adam.exp_avg", at::zeros({3})}, {"adam.exp_avg_sq", at::zeros({4})}}, 1),
               std::invalid_argument);
}

TEST(GradientNormTest, IsExactForLargeAndOddSizedBuffers) {
  const at::Tensor gradients = Numbers(0.5, at::kFloat);
  EXPECT_NEAR(GradientNorm(gradients), gradients.to(at::kDouble).norm().item<double>(), 1e-12);
  EXPECT_NEAR(GradientNorm(at::full({3}, 1e30f)) / 1e30, std::sqrt(3.0), 1e-6);  // squares overflow in float
}

TEST(GradientNormTest, IsNotFiniteExactlyWhenAnElementIsNot) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    at::Tensor gradients = Numbers(0, at::kFloat);
    gradients[kCount - 1] = bad;
    EXPECT_FALSE(std::isfinite(GradientNorm(gradients)));
  }
}

TEST(ScheduleTest, WarmsUpLinearlyThenStaysConstant) {
  const Schedule schedule = {.warmup_steps = 4};
  EXPECT_DOUBLE_EQ(schedule.Factor(1, 10), 0.25);
  EXPECT_DOUBLE_EQ(schedule.Factor(4, 10), 1);
  EXPECT_DOUBLE_EQ(schedule.Factor(10, 10), 1);
}

TEST(ScheduleTest, LinearAndCosineEndAtTheFinalFactor) {
  for (const ScheduleKind kind : {ScheduleKind::kLinear, ScheduleKind::kCosine}) {
    const Schedule schedule = {.kind = kind, .warmup_steps = 2, .final_factor = 0.1};
    EXPECT_DOUBLE_EQ(schedule.Factor(2, 12), 1);
    EXPECT_NEAR(schedule.Factor(7, 12), 0.55, 1e-12);  // half way
    EXPECT_NEAR(schedule.Factor(12, 12), 0.1, 1e-12);
  }
  EXPECT_GT((Schedule{.kind = ScheduleKind::kCosine}.Factor(2, 10)),
            (Schedule{.kind = ScheduleKind::kLinear}.Factor(2, 10)));
}

TEST(OptimizerTest, AFrozenStateStaysAsItIsAndCostsNoBit) {
  for (const OptimizerKind kind : {OptimizerKind::kAdam, OptimizerKind::kSgd}) {
    for (const int64_t n : {1, 1000, 5000}) {
      at::Tensor plain = at::arange(n, at::kFloat) / 7, values = plain.clone();
      const at::Tensor view = values.narrow(0, n / 2, 1);
      const OptimizerOptions options{.kind = kind, .momentum = 0.9};
      const auto reference = MakeOptimizer(options, plain), optimizer = MakeOptimizer(options, values);
      std::vector<std::pair<FrozenState, at::Tensor>> kept;
      for (int step = 0; step < 12; ++step) {
        at::Tensor gradients = at::cos(at::arange(n, at::kFloat) + step), same = gradients.clone();
        reference->Step(plain, gradients, 0.1, 1);
        optimizer->Step(values, same, 0.1, 1);
        ASSERT_TRUE(at::equal(values, plain)) << step;
        ASSERT_EQ(view.item<float>(), plain[n / 2].item<float>());  // views follow the memory
        for (size_t i = 0; i < reference->State().size(); ++i)
          ASSERT_TRUE(at::equal(optimizer->State()[i].tensor, reference->State()[i].tensor));
        // Twice in a row, with pauses, and with the last one let go or not.
        if (step % 4 == 3) kept.clear();
        if (step % 4 < 2) kept.emplace_back(optimizer->Freeze(values), plain.clone());
        for (const auto& [frozen, then] : kept) ASSERT_TRUE(at::equal(frozen.values, then)) << step;
      }
      const FrozenState frozen = optimizer->Freeze(values);
      const at::Tensor then = values.clone();
      optimizer->Thaw(values);
      values.zero_();
      EXPECT_TRUE(at::equal(frozen.values, then));
    }
  }
}

}  // namespace
}  // namespace sab::model
