#pragma once

#include <cstddef>
#include <cstdint>

#include "model/config.h"

namespace sab::model::fast {

// Why the fused engine leaves these settings to the reference, or null when it computes them on a CPU.
const char* WhyNotFast(const ModelConfig& config);

// Bytes that one training step of `rows` x `steps` makes the fast CPU engine allocate, at its peak and above
// parameters, gradients and the batch: workspaces of the blocks in work, packed weights, the table of the inputs and
// the sum of the blocks' gradients. Exact: the same layout is what the engine allocates. Plain arithmetic, no
// allocation.
size_t TrainingBytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps, int64_t threads);

// The same for an evaluation.
size_t EvaluationBytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps, int64_t threads);

}  // namespace sab::model::fast
