#include "model/fast/fast_engine.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "model/reference/reference_engine.h"
#include "tests/model/fast_cases.h"

namespace sab::model {
namespace {

// The reference's many small operations gain nothing from threads.
class OneThread : public testing::Environment {
 public:
  void SetUp() override { at::set_num_threads(1); }
};
const auto* const kOneThread = testing::AddGlobalTestEnvironment(new OneThread);

std::unique_ptr<Engine> MakeFast(const FastCase& c, ParameterSet& parameters) {
  return MakeFastEngine(c.config, c.shape, parameters);
}

class FastEngineInDouble : public testing::TestWithParam<FastCase> {};

TEST_P(FastEngineInDouble, AgreesWithTheReferenceToRounding) {
  ExpectAgreementInDouble(GetParam(), MakeFast, /*passes=*/true);
}

INSTANTIATE_TEST_SUITE_P(Grid, FastEngineInDouble, testing::ValuesIn(SabGrid()), CaseName);
INSTANTIATE_TEST_SUITE_P(Settings, FastEngineInDouble, testing::ValuesIn(Settings()), CaseName);
INSTANTIATE_TEST_SUITE_P(Controls, FastEngineInDouble, testing::ValuesIn(Controls()), CaseName);

class FastEngineInFloat : public testing::TestWithParam<FastCase> {};

// How many times as far the fast engine is, in the geometric mean over twelve networks.
double MeanRatioInFloat(FastCase c) {
  double logarithms = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    c.config.seed = seed;
    const FloatErrors errors = ErrorsInFloat(c, MakeFast);
    logarithms += std::log(errors.engine / errors.reference);
  }
  return std::exp(logarithms / 12);
}

// Along chains of recalls the errors of one network are a draw of chance, for either engine: where the first draw is
// unlucky, twelve decide.
TEST_P(FastEngineInFloat, IsAtMostTwiceAsFarFromDoubleAsTheReferenceIs) {
  const FloatErrors errors = ErrorsInFloat(GetParam(), MakeFast);
  // Kind attention takes tanh from e^2K e^2Q, whose error is an ulp of 1 however small tanh is.
  const double floor = GetParam().config.kind == Kind::kAttention ? 5e-5 : 1e-5;
  if (errors.engine <= 2 * errors.reference + floor) return;
  EXPECT_LE(MeanRatioInFloat(GetParam()), 2) << errors.where << ": " << errors.engine << ", " << errors.reference;
}

// Without those of one hidden unit, where the gradient of W_q is a difference of nearly equal numbers, and those that
// converge to one memory: there rounding chooses what is recalled, in the reference too.
std::vector<FastCase> FloatSettings() {
  std::vector<FastCase> cases = Settings();
  std::erase_if(cases,
                [](const FastCase& c) { return c.config.hidden_size == 1 || (c.constant_from > 0 && !c.forgets); });
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Settings, FastEngineInFloat, testing::ValuesIn(FloatSettings()), CaseName);
INSTANTIATE_TEST_SUITE_P(Controls, FastEngineInFloat, testing::ValuesIn(Controls()), CaseName);

// Rounding chooses among memories that are nearly equal: so over several networks together.
TEST(FastEngine, IsInFloatAtMostTwiceAsFarFromDoubleWhereMemoriesAreAlike) {
  EXPECT_LE(MeanRatioInFloat(Case("alike",
                                  [](FastCase& c) {
                                    c.config.k_att = 1, c.config.hidden_size = 24, c.steps = 130, c.constant_from = 12;
                                  })),
            2);
}

FastCase LongCase(Kind kind) {
  return Case("long", [&](FastCase& c) {
    c.config.kind = kind;
    c.config.precision = Precision::kFp32;
    c.config.hidden_size = 40;
    c.rows = 70;
    c.steps = 80;
    c.ragged = true;
  });
}

Outcome RunWithThreads(const FastCase& c, int threads) {
  const int before = at::get_num_threads();
  at::set_num_threads(threads);
  ParameterSet parameters = MakeParameters(c);
  const Outcome outcome = RunStep(*MakeFastEngine(c.config, c.shape, parameters), parameters, MakeBatch(c));
  at::set_num_threads(before);
  return outcome;
}

class FastEngineOfKind : public testing::TestWithParam<Kind> {};

TEST_P(FastEngineOfKind, GivesTheSameBitsWithAnyNumberOfThreadsAndInEveryRun) {
  const FastCase c = LongCase(GetParam());
  const Outcome one = RunWithThreads(c, 1);
  for (int threads : {1, 2, 3, 8}) {
    const Outcome other = RunWithThreads(c, threads);
    EXPECT_TRUE(at::equal(one.gradients, other.gradients)) << threads << " threads";
    EXPECT_EQ(one.sums.loss_sum, other.sums.loss_sum);
    EXPECT_EQ(one.sums.max_hidden_norm, other.sums.max_hidden_norm);
  }
}

TEST_P(FastEngineOfKind, RecomputesToTheSameBits) {
  FastCase c = LongCase(GetParam());
  c.config.recompute = Recompute::kOff;
  const Outcome kept = RunWithThreads(c, 2);
  c.config.recompute = Recompute::kOn;
  EXPECT_TRUE(at::equal(kept.gradients, RunWithThreads(c, 2).gradients));
}

class FastEngineControl : public testing::TestWithParam<FastCase> {};

TEST_P(FastEngineControl, GivesTheSameBitsWithAnyThreadsInEveryRunAndRecomputed) {
  FastCase c = GetParam();
  c.config.precision = Precision::kFp32;
  c.config.recompute = Recompute::kOff;
  const Outcome one = RunWithThreads(c, 1);
  EXPECT_TRUE(at::equal(one.gradients, RunWithThreads(c, 1).gradients));
  EXPECT_TRUE(at::equal(one.gradients, RunWithThreads(c, 2).gradients));
  c.config.recompute = Recompute::kOn;
  EXPECT_TRUE(at::equal(one.gradients, RunWithThreads(c, 2).gradients));
}

INSTANTIATE_TEST_SUITE_P(Controls, FastEngineControl, testing::ValuesIn(Controls()), CaseName);

TEST_P(FastEngineOfKind, AddsToTheGradients) {
  const FastCase c = LongCase(GetParam());
  ParameterSet parameters = MakeParameters(c);
  const std::unique_ptr<Engine> engine = MakeFastEngine(c.config, c.shape, parameters);
  const at::Tensor once = RunStep(*engine, parameters, MakeBatch(c)).gradients;
  parameters.gradients().fill_(1);
  engine->ForwardBackward(MakeBatch(c), 1.0 / static_cast<double>(c.rows * c.steps));
  EXPECT_LE((parameters.gradients() - once - 1).abs().max().item<double>(), 1e-6);
}

TEST_P(FastEngineOfKind, DoesNotRememberEarlierPasses) {
  const FastCase large = LongCase(GetParam());
  FastCase small = large;
  small.rows = 5;
  small.steps = 37;
  ParameterSet parameters = MakeParameters(large);
  const std::unique_ptr<Engine> used = MakeFastEngine(large.config, large.shape, parameters);
  used->Evaluate(MakeBatch(large));
  RunStep(*used, parameters, MakeBatch(large));
  const Outcome after = RunStep(*used, parameters, MakeBatch(small));
  const Outcome fresh = RunStep(*MakeFastEngine(large.config, large.shape, parameters), parameters, MakeBatch(small));
  EXPECT_TRUE(at::equal(after.gradients, fresh.gradients));
  EXPECT_EQ(after.sums.loss_sum, fresh.sums.loss_sum);
}

// The rows of a batch do not see each other: two halves add up to the whole.
TEST_P(FastEngineOfKind, AddsUpOverRows) {
  FastCase c = LongCase(GetParam());
  c.config.precision = Precision::kFp64;
  ParameterSet parameters = MakeParameters(c);
  const std::unique_ptr<Engine> engine = MakeFastEngine(c.config, c.shape, parameters);
  const Batch whole = MakeBatch(c);
  const Outcome together = RunStep(*engine, parameters, whole);
  PassSums sums;
  parameters.gradients().zero_();
  for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{0, 33}, {33, 37}}) {
    Batch half = whole;
    half.inputs = whole.inputs.narrow(0, first, rows);
    half.targets = whole.targets.narrow(0, first, rows);
    half.lengths = whole.lengths.narrow(0, first, rows);
    sums += engine->ForwardBackward(half, 1.0 / static_cast<double>(c.rows * c.steps));
  }
  EXPECT_EQ(sums.loss_count, together.sums.loss_count);
  EXPECT_NEAR(sums.loss_sum, together.sums.loss_sum, 1e-9);
  std::string where;
  EXPECT_LE(WorstRelativeError(parameters, parameters.gradients(), together.gradients, &where), 1e-12) << where;
}

INSTANTIATE_TEST_SUITE_P(Kinds, FastEngineOfKind, testing::Values(Kind::kSab, Kind::kLstm, Kind::kAttention));

TEST(FastEngine, ShowsThatAParameterIsNotANumber) {
  for (const char* name : {"cell.weight_hh", "attention.query.weight", "attention.memory.weight", "output.bias"}) {
    FastCase c = LongCase(Kind::kSab);
    ParameterSet parameters = MakeParameters(c);
    parameters.Get(name).value.view({-1})[3].fill_(std::nan(""));
    const Outcome outcome = RunStep(*MakeFastEngine(c.config, c.shape, parameters), parameters, MakeBatch(c));
    EXPECT_FALSE(std::isfinite(outcome.sums.loss_sum)) << name;
  }
}

TEST(FastEngine, RefusesASymbolOutsideTheVocabulary) {
  FastCase c = LongCase(Kind::kLstm);
  c.shape.inputs = 0;
  c.shape.vocabulary = 4;
  Batch batch = MakeBatch(c);
  batch.inputs.view({-1})[5].fill_(4);
  ParameterSet parameters = MakeParameters(c);
  const std::unique_ptr<Engine> engine = MakeFastEngine(c.config, c.shape, parameters);
  EXPECT_THROW(engine->ForwardBackward(batch, 1), std::invalid_argument);
}

TEST(FastEngine, SaysWhichSettingItDoesNotSupport) {
  FastCase c = LongCase(Kind::kSab);
  c.config.precision = Precision::kBf16;
  std::string why_not;
  EXPECT_FALSE(FastEngineSupports(c.config, c.shape, at::kCPU, &why_not));
  EXPECT_EQ(why_not.rfind("precision:", 0), 0u) << why_not;
  ParameterSet parameters = MakeParameters(c);
  EXPECT_THROW(MakeFastEngine(c.config, c.shape, parameters), std::invalid_argument);
}

}  // namespace
}  // namespace sab::model
