#include "tests/model/reference_batch.h"

#include <ATen/ops/empty.h>

#include "model/random.h"

namespace sab::model {
namespace {

at::Tensor Numbers(Random random, std::vector<int64_t> shape, at::ScalarType type) {
  at::Tensor numbers = at::empty(shape, at::TensorOptions().dtype(at::kDouble));
  auto* out = numbers.mutable_data_ptr<double>();
  for (int64_t i = 0; i < numbers.numel(); ++i) out[i] = 4 * random.Uniform() - 2;
  return numbers.to(type);
}

at::Tensor Integers(Random random, std::vector<int64_t> shape, int64_t low, int64_t high) {
  at::Tensor numbers = at::empty(shape, at::TensorOptions().dtype(at::kLong));
  auto* out = numbers.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < numbers.numel(); ++i) out[i] = low + static_cast<int64_t>(random.Below(high - low));
  return numbers;
}

}  // namespace

Batch RandomBatch(const TaskShape& shape, const RandomBatchOptions& options) {
  const int64_t rows = options.rows, steps = options.steps;
  const Random inputs(options.seed, 1), targets(options.seed, 2), lengths(options.seed, 3);
  Batch batch;
  batch.inputs = shape.vocabulary > 0 ? Integers(inputs, {rows, steps}, 0, shape.vocabulary)
                                      : Numbers(inputs, {rows, steps, shape.inputs}, options.type);
  switch (shape.loss) {
    case LossKind::kCrossEntropyEveryStep:
      batch.targets = Integers(targets, {rows, steps}, 0, shape.outputs);
      break;
    case LossKind::kCrossEntropyLastStep:
      batch.targets = Integers(targets, {rows}, 0, shape.outputs);
      break;
    case LossKind::kMseLastStep:
      batch.targets = Numbers(targets, {rows, shape.outputs}, options.type);
      break;
  }
  if (options.ragged) {
    batch.lengths = Integers(lengths, {rows}, 1, steps + 1);
    batch.lengths.mutable_data_ptr<int64_t>()[0] = steps;
  }
  return batch;
}

}  // namespace sab::model
