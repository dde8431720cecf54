#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/batch.h"
#include "model/config.h"

namespace sab::model {

struct RandomBatchOptions {
  int64_t rows = 3;
  int64_t steps = 12;
  bool ragged = false;  // lengths of 1..steps, the first row's being `steps`
  uint64_t seed = 1;
  at::ScalarType type = at::kDouble;  // of float inputs and targets
};

// Inputs from U(-2, 2) or uniform symbols, targets uniform; on the CPU.
Batch RandomBatch(const TaskShape& shape, const RandomBatchOptions& options);

}  // namespace sab::model
