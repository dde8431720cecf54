// What runs on a GPU agrees with the CPU: the networks in plain operations, the fused CUDA engine, and the optimiser's
// sweep. Skipped without a GPU. Run it under `compute-sanitizer --tool memcheck`, racecheck and synccheck as well.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/engine.h"
#include "model/train/optimizer.h"
#include "tests/model/reference_batch.h"

namespace sab::model {
namespace {

constexpr TaskShape kShape{.inputs = 2, .outputs = 4};

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no CUDA device";
  }
};

std::vector<ModelConfig> AllSystems() {
  const ModelConfig base{.hidden_size = 16, .engine = EngineKind::kReference, .precision = Precision::kFp64};
  std::vector<ModelConfig> configs(5, base);
  configs[1].score = Score::kSeparable;
  configs[2].kind = Kind::kLstm;
  configs[2].k_trunc = 0;
  configs[3].kind = Kind::kLstm;
  configs[4].kind = Kind::kAttention;
  return configs;
}

at::Tensor Gradients(const ModelConfig& config, at::Device device) {
  Batch batch = RandomBatch(kShape, {.rows = 5, .steps = 40, .ragged = true});
  batch.inputs = batch.inputs.to(device);
  batch.targets = batch.targets.to(device);
  batch.lengths = batch.lengths.to(device);
  ParameterSet parameters(config, kShape, device);
  MakeEngine(config, kShape, parameters)->ForwardBackward(batch, 0.01);
  return parameters.gradients().to(at::kCPU);
}

TEST_F(CudaTest, GradientsAgreeWithTheCpus) {
  for (const ModelConfig& config : AllSystems()) {
    const at::Tensor expected = Gradients(config, at::kCPU);
    const at::Tensor found = Gradients(config, at::Device(at::kCUDA, 0));
    EXPECT_LE((found - expected).abs().max().item<double>(), 1e-9 * expected.abs().max().item<double>())
        << "kind " << static_cast<int>(config.kind) << ", score " << static_cast<int>(config.score);
  }
}

// The settings that the fused engine has besides, and sizes for every kind of launch: one block a group, a cluster,
// more blocks than a cluster has, and weights that do not fit.
std::vector<ModelConfig> FusedSystems() {
  std::vector<ModelConfig> configs = AllSystems();
  for (const int64_t hidden : {33, 128, 300, 700}) {
    configs.push_back({.hidden_size = hidden, .precision = Precision::kFp64});
  }
  configs.push_back(
      {.memory_state = MemoryState::kRecalled, .recompute = Recompute::kOn, .precision = Precision::kFp64});
  configs.push_back({.memory_capacity = 8, .memory_policy = MemoryPolicy::kSalient, .precision = Precision::kFp64});
  return configs;
}

at::Tensor GradientsOnGpu(ModelConfig config, EngineKind engine) {
  config.engine = engine;
  return Gradients(config, at::Device(at::kCUDA, 0));
}

TEST_F(CudaTest, FusedEngineAgreesWithTheReference) {
  for (const ModelConfig& config : FusedSystems()) {
    const at::Tensor expected = GradientsOnGpu(config, EngineKind::kReference);
    const at::Tensor found = GradientsOnGpu(config, EngineKind::kFast);
    EXPECT_LE((found - expected).abs().max().item<double>(), 1e-9 * expected.abs().max().item<double>())
        << "kind " << static_cast<int>(config.kind) << ", score " << static_cast<int>(config.score) << ", hidden "
        << config.hidden_size;
  }
}

TEST_F(CudaTest, FusedEngineGivesTheSameBitsAgain) {
  for (ModelConfig config : FusedSystems())
    for (const Precision precision : {Precision::kFp32, Precision::kTf32, Precision::kBf16}) {
      config.precision = precision;
      EXPECT_TRUE(at::equal(GradientsOnGpu(config, EngineKind::kFast), GradientsOnGpu(config, EngineKind::kFast)));
    }
}

TEST_F(CudaTest, FusedEngineInFloatIsCloseToDouble) {
  for (ModelConfig config : FusedSystems()) {
    const at::Tensor exact = GradientsOnGpu(config, EngineKind::kFast);
    config.precision = Precision::kFp32;
    const at::Tensor rounded = GradientsOnGpu(config, EngineKind::kFast).to(at::kDouble);
    EXPECT_LE((rounded - exact).abs().max().item<double>(), 5e-3 * exact.abs().max().item<double>());
  }
}

// Gradients and figures of several passes, with an update between; from the fourth one on out of a graph, where there
// is one.
std::vector<at::Tensor> PassesOnGpu(ModelConfig config, CudaGraphs graphs) {
  const at::Device device(at::kCUDA, 0);
  config.engine = EngineKind::kFast;
  config.precision = Precision::kFp32;
  config.cuda_graphs = graphs;
  ParameterSet parameters(config, kShape, device);
  const auto engine = MakeEngine(config, kShape, parameters);
  const auto optimizer = MakeOptimizer({}, parameters.values());
  std::vector<at::Tensor> results;
  for (uint64_t step = 0; step < 8; ++step) {
    Batch batch = RandomBatch(kShape, {.rows = 5, .steps = 40, .ragged = true, .seed = step});
    for (at::Tensor* t : {&batch.inputs, &batch.targets, &batch.lengths}) *t = t->to(device);
    parameters.gradients().zero_();
    const PassSums sums = engine->ForwardBackward(batch, 0.01);
    results.push_back(parameters.gradients().to(at::kCPU));
    results.push_back(at::full({}, sums.loss_sum, at::kDouble));
    optimizer->Step(parameters.values(), parameters.gradients(), 1e-3, 1);
  }
  return results;
}

// Whether graphs were used shows in the absence of a warning: a replay that differs is one.
TEST_F(CudaTest, GraphsGiveTheBitsOfPlainLaunches) {
  for (const ModelConfig& config : FusedSystems()) {
    const std::vector<at::Tensor> plain = PassesOnGpu(config, CudaGraphs::kOff);
    testing::internal::CaptureStderr();
    const std::vector<at::Tensor> graphed = PassesOnGpu(config, CudaGraphs::kAuto);
    EXPECT_EQ(testing::internal::GetCapturedStderr().find("no CUDA graphs"), std::string::npos);
    for (size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(at::equal(graphed[i], plain[i])) << i;
  }
}

at::Tensor AfterSteps(const OptimizerOptions& options, at::Device device) {
  at::Tensor values = at::linspace(-1, 1, 1001).to(device);
  const auto optimizer = MakeOptimizer(options, values);
  for (int step = 1; step <= 5; ++step) {
    at::Tensor gradients = values * values + 0.1 * step;
    optimizer->Step(values, gradients, 1e-2, 0.5);
  }
  return values.to(at::kCPU);
}

TEST_F(CudaTest, OptimisersAgreeWithTheCpus) {
  const OptimizerOptions adam{.kind = OptimizerKind::kAdam, .weight_decay = 0.1};
  const OptimizerOptions sgd{.kind = OptimizerKind::kSgd, .momentum = 0.9, .weight_decay = 0.1};
  for (const OptimizerOptions& options : {adam, sgd}) {
    const at::Tensor difference = AfterSteps(options, at::Device(at::kCUDA, 0)) - AfterSteps(options, at::kCPU);
    EXPECT_LE(difference.abs().max().item<double>(), 1e-6);
  }
}

}  // namespace
}  // namespace sab::model
