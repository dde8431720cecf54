#include "model/fast/footprint.h"

#include <algorithm>

#include "model/fast/buffer.h"
#include "model/fast/plan.h"

namespace sab::model::fast {
namespace {

template <class T>
size_t PassBytes(const Plan& plan, int64_t rows, int64_t threads) {
  const int64_t blocks = (rows + plan.rows - 1) / plan.rows;
  const auto at_once = static_cast<size_t>(std::min(blocks, std::max<int64_t>(1, threads)));
  const size_t gradients = plan.backward ? static_cast<size_t>(LayOutGradients<T>(plan, nullptr).count) * sizeof(T) : 0;
  const size_t wide = static_cast<size_t>(std::max(4 * plan.hidden, plan.outputs) * plan.hidden) * sizeof(T);
  const size_t table = static_cast<size_t>((plan.inputs + plan.symbols) * 4 * plan.hidden) * sizeof(T);
  return ReservedBytes(LayOutNet<T>(plan, nullptr).bytes) + wide + table + ReservedBytes(gradients) +
         at_once * ReservedBytes(LayOutWorkspace<T>(plan, nullptr).bytes + gradients);
}

size_t Bytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps, int64_t threads,
             bool backward) {
  const Plan plan = MakePlan(config, shape, rows, steps, backward);
  return config.precision == Precision::kFp64 ? PassBytes<double>(plan, rows, threads)
                                              : PassBytes<float>(plan, rows, threads);
}

}  // namespace

const char* WhyNotFast(const ModelConfig& config) {
  if (config.precision == Precision::kBf16) return "precision: the fused engine computes in fp32 or fp64";
  return nullptr;
}

size_t TrainingBytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps, int64_t threads) {
  return Bytes(config, shape, rows, steps, threads, true);
}

size_t EvaluationBytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps,
                       int64_t threads) {
  return Bytes(config, shape, rows, steps, threads, false);
}

}  // namespace sab::model::fast
