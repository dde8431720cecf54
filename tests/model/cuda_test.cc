// What runs on a GPU agrees with the CPU: the networks in plain operations, and the optimiser's sweep. Skipped without
// a GPU.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

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
