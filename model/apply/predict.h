#pragma once

#include <optional>

#include "model/apply/evaluate.h"

namespace sab::model {

// What a network says of some sequences.
struct Prediction {
  // (N,O) where the task's target is at a row's last step, (N,T,O) where every step has one; float. Zero at and after a
  // row's end.
  at::Tensor outputs;
  // The place of the largest output, the first of equals: (N) or (N,T) int64. Undefined where outputs are no scores of
  // classes (mean square error).
  at::Tensor classes;
};

// `data.inputs` F32 (N,T,I) or I64 (N,T), and `data.lengths` I64 (N) if rows end before T; both as the network of
// `shape` reads them. `batch_size` rows at a time; all outputs are held in memory. Nothing: `progress`, which counts
// rows, stopped it. Throws std::invalid_argument that names `data.path` and what does not fit.
std::optional<Prediction> Predict(const TensorData& data, int64_t batch_size, const TaskShape& shape, Engine& engine,
                                  const ParameterSet& parameters, const WorkProgress& progress);

}  // namespace sab::model
