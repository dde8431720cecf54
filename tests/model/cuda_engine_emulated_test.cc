// The CUDA engine with its kernels run by the emulator, against the reference: what a machine without a GPU can show of
// it, which is everything but the launch itself and the hardware's barriers.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "model/cuda/cuda_engine.h"
#include "model/cuda/emulated_launcher.h"
#include "model/reference/reference_engine.h"
#include "tests/model/fast_cases.h"

namespace sab::model {
namespace {

using cuda::DeviceLimits;

class OneThread : public testing::Environment {
 public:
  void SetUp() override { at::set_num_threads(1); }
};
const auto* const kOneThread = testing::AddGlobalTestEnvironment(new OneThread);

// Pretended GPUs. Their chunks are short, so that a sequence has several; blocks have two warps.
constexpr DeviceLimits kOneBlockAGroup{.processors = 3, .shared_bytes = 4 << 20, .threads = 64, .chunk = 16};
constexpr DeviceLimits kSeveralBlocksAGroup{.processors = 20, .shared_bytes = 4 << 20, .threads = 64, .chunk = 16};
constexpr DeviceLimits kManyRowsAGroup{.processors = 1, .shared_bytes = 4 << 20, .threads = 64, .chunk = 16};
constexpr DeviceLimits kNothingResident{.processors = 5, .shared_bytes = 36 << 10, .threads = 64, .chunk = 16};

std::unique_ptr<Engine> MakeEmulated(const FastCase& c, ParameterSet& parameters, const DeviceLimits& limits) {
  return MakeCudaEngine(c.config, c.shape, parameters, cuda::MakeEmulatedLauncher(limits));
}

Outcome EmulatedStep(const FastCase& c, const DeviceLimits& limits) {
  ParameterSet parameters = MakeParameters(c);
  return RunStep(*MakeEmulated(c, parameters, limits), parameters, MakeBatch(c));
}

// Cases of the CPU engine, no larger than the emulator is fast.
std::vector<FastCase> Small(std::vector<FastCase> cases) {
  std::erase_if(cases, [](const FastCase& c) { return cuda::WhyNotCuda(c.config) != nullptr; });
  for (FastCase& c : cases) {
    c.rows = std::min<int64_t>(c.rows, 5);
    c.steps = std::min<int64_t>(c.steps, c.config.hidden_size > 100 ? 20 : 50);
  }
  return cases;
}

// The emulator as an engine under test.
EngineMaker Emulator(const DeviceLimits& limits) {
  return [limits](const FastCase& c, ParameterSet& parameters) { return MakeEmulated(c, parameters, limits); };
}

class CudaEngineInDouble : public testing::TestWithParam<FastCase> {};

TEST_P(CudaEngineInDouble, AgreesWithTheReferenceToRounding) {
  ExpectAgreementInDouble(GetParam(), Emulator(kOneBlockAGroup), /*passes=*/false);
}

INSTANTIATE_TEST_SUITE_P(Grid, CudaEngineInDouble, testing::ValuesIn(Small(SabGrid())), CaseName);

class CudaEngineWithSettings : public testing::TestWithParam<FastCase> {};

TEST_P(CudaEngineWithSettings, AgreesWithTheReferenceInEveryPass) {
  ExpectAgreementInDouble(GetParam(), Emulator(kOneBlockAGroup), /*passes=*/true);
}

INSTANTIATE_TEST_SUITE_P(Settings, CudaEngineWithSettings, testing::ValuesIn(Small(Settings())), CaseName);

// Odd sizes on every system.
std::vector<FastCase> Systems() {
  FastCase base;
  base.config.hidden_size = 33;
  base.config.precision = Precision::kFp64;
  base.config.tie_guard = 1e-3;
  base.shape.inputs = 3;
  base.shape.outputs = 7;
  base.rows = 5;
  base.steps = 37;
  base.ragged = true;
  base.weight_scale = 1.5;
  std::vector<FastCase> cases;
  const auto add = [&](const char* name, const auto& change) {
    cases.push_back(base);
    cases.back().name = name;
    change(cases.back().config);
  };
  add("sab", [](ModelConfig&) {});
  add("recalled", [](ModelConfig& c) { c.memory_state = MemoryState::kRecalled, c.recompute = Recompute::kOn; });
  add("large_scores", [](ModelConfig& c) { c.init_std = 20, c.k_att = 1, c.tie_guard = 0.1; });
  add("separable", [](ModelConfig& c) { c.score = Score::kSeparable, c.dense = Dense::kRaw; });
  add("salient", [](ModelConfig& c) {
    c.memory_capacity = 8, c.memory_policy = MemoryPolicy::kSalient, c.memory_recent = 3, c.k_att = 1;
  });
  add("lstm", [](ModelConfig& c) { c.kind = Kind::kLstm; });
  add("attention", [](ModelConfig& c) { c.kind = Kind::kAttention; });
  return cases;
}

class CudaEngineOfSystem : public testing::TestWithParam<FastCase> {};

TEST_P(CudaEngineOfSystem, DividesHiddenUnitsAmongTheBlocksOfAGroup) {
  const cuda::SweepShape shape = cuda::ChooseSweep(GetParam().config, 5, true, kSeveralBlocksAGroup, {8, 8});
  ASSERT_EQ(shape.group, 4);
  ExpectAgreementInDouble(GetParam(), Emulator(kSeveralBlocksAGroup), /*passes=*/false);
}

TEST_P(CudaEngineOfSystem, TakesManyRowsThroughOneGroup) {
  FastCase c = GetParam();
  c.rows = 11;  // more than a thread computes at a time
  const cuda::SweepShape shape = cuda::ChooseSweep(c.config, c.rows, true, kManyRowsAGroup, {8, 8});
  ASSERT_EQ(shape.rows_at_a_time, cuda::kManyRows);
  ExpectAgreementInDouble(c, Emulator(kManyRowsAGroup), /*passes=*/false);
}

TEST_P(CudaEngineOfSystem, ReadsWeightsThatDoNotFit) {
  const cuda::SweepShape shape = cuda::ChooseSweep(GetParam().config, 5, true, kNothingResident, {8, 8});
  ASSERT_FALSE(shape.resident);
  ASSERT_GT(shape.group, 1);
  ExpectAgreementInDouble(GetParam(), Emulator(kNothingResident), /*passes=*/false);
}

TEST_P(CudaEngineOfSystem, GivesTheSameBitsAgainAndWithRecomputing) {
  FastCase c = GetParam();
  c.config.precision = Precision::kFp32;
  c.config.recompute = Recompute::kOff;
  const Outcome kept = EmulatedStep(c, kSeveralBlocksAGroup);
  EXPECT_TRUE(at::equal(kept.gradients, EmulatedStep(c, kSeveralBlocksAGroup).gradients));
  c.config.recompute = Recompute::kOn;
  EXPECT_TRUE(at::equal(kept.gradients, EmulatedStep(c, kSeveralBlocksAGroup).gradients));
}

TEST_P(CudaEngineOfSystem, IsInFloatAtMostTwiceAsFarFromDoubleAsTheReferenceIs) {
  const FloatErrors errors = ErrorsInFloat(GetParam(), Emulator(kOneBlockAGroup));
  EXPECT_LE(errors.engine, 2 * errors.reference + 1e-5) << errors.where;
}

// With parameters that bf16 holds exactly, the sweep forward gives the bits of fp32: its sums are not rounded.
// (Symbols, as their projection is not rounded either; the output layer's products are.)
TEST_P(CudaEngineOfSystem, HoldsWeightsIn16BitsAndSumsInFloat) {
  FastCase in_float = GetParam();
  in_float.shape.inputs = 0;
  in_float.shape.vocabulary = 6;
  in_float.config.precision = Precision::kFp32;
  FastCase half = in_float;
  half.config.precision = Precision::kBf16;
  ParameterSet parameters = MakeParameters(in_float);
  parameters.values().copy_(parameters.values().to(at::kBFloat16));
  const Batch batch = MakeBatch(in_float);
  const Outcome expected = RunStep(*MakeEmulated(in_float, parameters, kSeveralBlocksAGroup), parameters, batch);
  const Outcome actual = RunStep(*MakeEmulated(half, parameters, kSeveralBlocksAGroup), parameters, batch);
  EXPECT_EQ(actual.sums.max_hidden_norm, expected.sums.max_hidden_norm);
  std::string where;
  EXPECT_LE(WorstRelativeError(parameters, actual.gradients, expected.gradients, &where), 0.1) << where;
}

INSTANTIATE_TEST_SUITE_P(Systems, CudaEngineOfSystem, testing::ValuesIn(Systems()), CaseName);

// --- Graphs. The emulator's run what was enqueued again: what they are made of, what goes into them and what comes out
// is as on a GPU, the capture itself is not.

struct GraphCounts {
  int captured = 0, replayed = 0;
  bool capture_fails = false;  // in the middle, as a call does that a capture does not allow
  bool replay_is_wrong = false;
};

class CountingGraph : public cuda::Graph {
 public:
  CountingGraph(std::unique_ptr<cuda::Graph> graph, GraphCounts* counts, at::Tensor gradients)
      : graph_(std::move(graph)), counts_(counts), gradients_(std::move(gradients)) {}

  void Replay() override {
    ++counts_->replayed;
    graph_->Replay();
    if (counts_->replay_is_wrong) gradients_.select(0, 0).add_(1e-3);
  }

 private:
  const std::unique_ptr<cuda::Graph> graph_;
  GraphCounts* const counts_;
  at::Tensor gradients_;
};

class CountingLauncher : public cuda::Launcher {
 public:
  CountingLauncher(GraphCounts* counts, at::Tensor gradients)
      : emulator_(cuda::MakeEmulatedLauncher(kOneBlockAGroup)), counts_(counts), gradients_(std::move(gradients)) {}

  DeviceLimits Limits() const override { return emulator_->Limits(); }
  void Sweep(bool backward, bool half, const cuda::SweepShape& shape, const cuda::SweepArguments<float>& a) override {
    emulator_->Sweep(backward, half, shape, a);
  }
  void Sweep(bool backward, bool half, const cuda::SweepShape& shape, const cuda::SweepArguments<double>& a) override {
    emulator_->Sweep(backward, half, shape, a);
  }
  void Attend(bool backward, const cuda::AttentionArguments<float>& a) override { emulator_->Attend(backward, a); }
  void Attend(bool backward, const cuda::AttentionArguments<double>& a) override { emulator_->Attend(backward, a); }
  std::unique_ptr<cuda::Graph> Capture(const std::function<void()>& enqueue) override {
    ++counts_->captured;
    if (counts_->capture_fails) {
      enqueue();
      throw std::runtime_error("CUDA: cudaStreamEndCapture: cudaErrorStreamCaptureInvalidated");
    }
    return std::make_unique<CountingGraph>(emulator_->Capture(enqueue), counts_, gradients_);
  }

 private:
  const std::unique_ptr<cuda::Launcher> emulator_;
  GraphCounts* const counts_;
  const at::Tensor gradients_;
};

// Two engines for the same parameters, which every pass changes: one with graphs, one without.
class GraphedTraining {
 public:
  explicit GraphedTraining(FastCase c)
      : case_(std::move(c)), parameters_(MakeParameters(case_)), batch_(MakeBatch(case_)) {
    graphed_ = MakeCudaEngine(case_.config, case_.shape, parameters_,
                              std::make_unique<CountingLauncher>(&counts, parameters_.gradients()));
    ModelConfig plain = case_.config;
    plain.cuda_graphs = CudaGraphs::kOff;
    plain_ = MakeCudaEngine(plain, case_.shape, parameters_, cuda::MakeEmulatedLauncher(kOneBlockAGroup));
  }

  // A pass of both over other numbers than the one before; gradients are added to what is there.
  void Pass(double loss_scale = 0.01) {
    batch_.inputs = batch_.inputs.flip(0).contiguous();
    batch_.targets = batch_.targets.flip(0).contiguous();
    if (batch_.lengths.defined()) batch_.lengths = batch_.lengths.flip(0).contiguous();
    parameters_.values().mul_(0.99);
    at::Tensor& gradients = parameters_.gradients();
    gradients.fill_(0.25);
    const PassSums expected = plain_->ForwardBackward(batch_, loss_scale);
    const at::Tensor kept = gradients.clone();
    gradients.fill_(0.25);
    const PassSums actual = graphed_->ForwardBackward(batch_, loss_scale);
    ExpectSameSums(actual, expected, 0);
    EXPECT_TRUE(at::equal(gradients, kept));
  }
  void Evaluate() { ExpectSameSums(graphed_->Evaluate(batch_), plain_->Evaluate(batch_), 0); }
  void Shorten() {
    batch_.inputs = batch_.inputs.narrow(1, 0, 20);
    if (batch_.targets.dim() == 2) batch_.targets = batch_.targets.narrow(1, 0, 20);
    if (batch_.lengths.defined()) batch_.lengths = batch_.lengths.clamp_max(20);
  }

  GraphCounts counts;

 private:
  const FastCase case_;
  ParameterSet parameters_;
  Batch batch_;
  std::unique_ptr<Engine> graphed_, plain_;
};

TEST_P(CudaEngineOfSystem, GivesTheSameBitsFromAGraph) {
  for (const LossKind loss :
       {LossKind::kCrossEntropyEveryStep, LossKind::kCrossEntropyLastStep, LossKind::kMseLastStep}) {
    FastCase c = GetParam();
    c.shape.loss = loss;
    c.config.precision = Precision::kFp32;
    GraphedTraining training(c);
    for (int i = 0; i < 6; ++i) {
      training.Pass();
      if (i == 4) training.Evaluate();  // takes the memory that plain passes had
    }
    EXPECT_EQ(training.counts.captured, 1);
    EXPECT_EQ(training.counts.replayed, 4);  // two plain passes, one done both ways, three more
  }
}

TEST(CudaGraphs, AreOfOneShapeAndOneScaleOfTheLoss) {
  GraphedTraining training(Systems()[0]);
  for (int i = 0; i < 4; ++i) training.Pass();
  EXPECT_EQ(training.counts.replayed, 2);
  training.Pass(0.02);
  training.Pass(0.02);
  EXPECT_EQ(training.counts.captured, 2);  // the first is gone
  training.Pass(0.01);
  EXPECT_EQ(training.counts.replayed, 2);
  training.Shorten();
  for (int i = 0; i < 3; ++i) training.Pass();
  EXPECT_EQ(training.counts.captured, 3);
  EXPECT_EQ(training.counts.replayed, 3);
}

TEST(CudaGraphs, ThatCannotBeRecordedAreNotTriedAgain) {
  GraphedTraining training(Systems()[0]);
  training.counts.capture_fails = true;
  for (int i = 0; i < 6; ++i) training.Pass();
  EXPECT_EQ(training.counts.captured, 1);
  EXPECT_EQ(training.counts.replayed, 0);
}

TEST(CudaGraphs, ThatGiveOtherBitsAreNotUsed) {
  GraphedTraining training(Systems()[0]);
  training.counts.replay_is_wrong = true;
  for (int i = 0; i < 6; ++i) training.Pass();
  EXPECT_EQ(training.counts.replayed, 1);  // beside the plain pass whose results stayed
}

TEST(CudaGraphs, AreForSmallPassesAndCanBeTurnedOff) {
  FastCase c = Systems()[0];
  EXPECT_EQ(cuda::GraphBytes(c.config, c.shape, 64, 100), cuda::TrainingBytes(c.config, c.shape, 64, 100));
  EXPECT_EQ(cuda::GraphBytes(c.config, c.shape, 64, 100'000), 0u);
  c.config.cuda_graphs = CudaGraphs::kOff;
  EXPECT_EQ(cuda::GraphBytes(c.config, c.shape, 64, 100), 0u);
}

TEST(CudaEngine, ShowsThatAParameterIsNotANumber) {
  FastCase c = Systems()[0];
  for (const char* name : {"cell.weight_hh", "attention.query.weight", "attention.memory.weight"}) {
    ParameterSet parameters = MakeParameters(c);
    parameters.Get(name).value.view({-1})[3].fill_(std::nan(""));
    const Outcome outcome = RunStep(*MakeEmulated(c, parameters, kOneBlockAGroup), parameters, MakeBatch(c));
    EXPECT_FALSE(std::isfinite(outcome.sums.loss_sum)) << name;
  }
}

TEST(CudaEngine, SaysWhichSettingItDoesNotSupport) {
  FastCase c = Systems()[0];
  c.config.k_top = 40;
  std::string why_not;
  EXPECT_FALSE(CudaEngineSupports(c.config, c.shape, at::Device(at::kCUDA, 0), &why_not));
  EXPECT_EQ(why_not.rfind("k_top:", 0), 0u) << why_not;
  EXPECT_FALSE(CudaEngineSupports(c.config, c.shape, at::kCPU, &why_not));
  EXPECT_EQ(why_not.rfind("device:", 0), 0u) << why_not;
  ParameterSet parameters = MakeParameters(c);
  EXPECT_THROW(MakeEmulated(c, parameters, kOneBlockAGroup), std::invalid_argument);
}

// What the comments in model/cuda/plan.h promise of real GPUs: an H100 and an A100.
TEST(CudaPlan, HoldsWeightsOfUsualSizesInSharedMemory) {
  constexpr DeviceLimits kH100;
  constexpr DeviceLimits kA100{.processors = 108, .shared_bytes = 163 << 10, .cluster_blocks = 1};
  for (const DeviceLimits& limits : {kH100, kA100})
    for (const int64_t hidden : {32, 64, 128, 256, 512}) {
      ModelConfig config;
      config.hidden_size = hidden;
      const cuda::SweepShape shape = cuda::ChooseSweep(config, 128, true, limits, {4, 4});
      EXPECT_TRUE(shape.resident) << hidden;
      EXPECT_LE(shape.shared_bytes, static_cast<size_t>(limits.shared_bytes)) << hidden;
      EXPECT_LE(shape.blocks(), limits.processors) << hidden;
      EXPECT_GE(shape.groups * shape.group_rows, 128) << hidden;
    }
  ModelConfig config;
  const cuda::SweepShape shape = cuda::ChooseSweep(config, 128, false, kH100, {4, 4});
  EXPECT_EQ(shape.group, 2);
  EXPECT_EQ(shape.group_rows, 2);
  EXPECT_TRUE(shape.cluster);
  EXPECT_EQ(cuda::ChooseSweep(config, 128, false, kH100, {4, 2}).group, 1);
  EXPECT_EQ(cuda::ChooseSweep(config, 128, false, kA100, {4, 4}).group, 4);
  EXPECT_EQ(cuda::ChooseSweep(config, 128, false, kA100, {4, 2}).group, 2);
  config.hidden_size = 1024;
  EXPECT_TRUE(cuda::ChooseSweep(config, 128, true, kH100, {4, 2}).resident);
  config.hidden_size = 2048;
  EXPECT_FALSE(cuda::ChooseSweep(config, 128, false, kH100, {4, 4}).resident);
  EXPECT_LE(cuda::ChooseSweep(config, 128, false, kH100, {4, 4}).shared_bytes, size_t{227 << 10});
}

}  // namespace
}  // namespace sab::model
