// The CUDA engine with its kernels run by the emulator, against the reference: what a machine without a GPU can show of
// it, which is everything but the launch itself and the hardware's barriers.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <cmath>
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

// Pretended GPUs. Their chunks are short, so that a sequence has several.
constexpr DeviceLimits kOneBlockAGroup{.processors = 3, .shared_bytes = 4 << 20, .threads = 64, .chunk = 16};
constexpr DeviceLimits kSeveralBlocksAGroup{
    .processors = 6, .shared_bytes = 30 << 10, .cluster_blocks = 1, .threads = 64, .chunk = 16};
constexpr DeviceLimits kNothingResident{.processors = 5, .shared_bytes = 0, .threads = 64, .chunk = 32};


std::unique_ptr<Engine> MakeEmulated(const FastCase& c, ParameterSet& parameters, const DeviceLimits& limits) {
  return MakeCudaEngine(c.config, c.shape, parameters, cuda::MakeEmulatedLauncher(limits));
}

class CudaEngineInDouble : public testing::TestWithParam<FastCase> {};

void ExpectAgreement(const FastCase& c, const DeviceLimits& limits) {
  ParameterSet parameters = MakeParameters(c);
  const Batch batch = MakeBatch(c);
  const std::unique_ptr<Engine> reference = MakeReferenceEngine(c.config, c.shape, parameters);
  const std::unique_ptr<Engine> emulated = MakeEmulated(c, parameters, limits);
  const Outcome expected = RunStep(*reference, parameters, batch);
  const Outcome actual = RunStep(*emulated, parameters, batch);
  // With one recall its weight is r / (r + 1e-7): what is left of the scores' gradient is the difference of nearly
  // equal numbers.
  const double tolerance = c.config.k_top == 1 ? 1e-8 : 1e-10;
  std::string where;
  EXPECT_LE(WorstRelativeError(parameters, actual.gradients, expected.gradients, &where), tolerance) << where;
  ExpectSameSums(actual.sums, expected.sums, 1e-10);
  ExpectSameSums(emulated->Evaluate(batch), reference->Evaluate(batch), 1e-10);
  const at::Tensor y = reference->Outputs(batch);
  EXPECT_LE((emulated->Outputs(batch) - y).abs().max().item<double>(), 1e-10 * y.abs().max().item<double>());
}

TEST_P(CudaEngineInDouble, AgreesWithTheReferenceToRounding) {
  ExpectAgreement(GetParam(), kOneBlockAGroup);
}

INSTANTIATE_TEST_SUITE_P(Grid, CudaEngineInDouble, testing::ValuesIn(SabGrid()), CaseName);
INSTANTIATE_TEST_SUITE_P(Settings, CudaEngineInDouble, testing::ValuesIn(Settings()), CaseName);

}  // namespace
}  // namespace sab::model
