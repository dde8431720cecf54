#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "model/config.h"
#include "model/reference/cell.h"

namespace sab::model {

// What some steps of a recurrence came to.
struct States {
  at::Tensor hidden;   // (t,B,H): h_t
  at::Tensor context;  // (t,B,H): s_t; undefined for kind lstm
  at::Tensor guarded;  // (t,B) bool: tie_guard held back the scores' gradient; undefined: nowhere
};

// A network between its input projection and its output layer, at some step of a batch of sequences.
class Recurrence {
 public:
  virtual ~Recurrence() = default;

  // Takes the next steps: projected (t,B,4H) of ProjectInputs. Steps of one call are differentiable into earlier
  // calls'.
  virtual States Advance(const at::Tensor& projected) = 0;
};

// At step 0 of `rows` sequences. `weights` must outlive it. `row_streams`, one a row, is the randomness of recall:
// random and may be empty otherwise.
std::unique_ptr<Recurrence> MakeRecurrence(const ModelConfig& config, const Weights& weights, int64_t rows,
                                           std::vector<uint64_t> row_streams);

}  // namespace sab::model
