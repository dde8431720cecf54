#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sab::model {

// One batch, on the engine's device.
struct Batch {
  at::Tensor inputs;   // (B,T,I) float, or (B,T) int64 symbols
  at::Tensor targets;  // by LossKind: (B,T) int64, (B) int64, or (B,O) float
  at::Tensor lengths;  // (B) int64, 1..T: rows end there; undefined: all rows are T long
  // Figures other than the loss count positions >= metric_from (0-based) of each row: the last 10 for copy, T-1 for
  // recall.
  int64_t metric_from = 0;

  int64_t rows() const { return inputs.size(0); }
  int64_t steps() const { return inputs.size(1); }
};

// What a pass over a batch adds up to. Sums, so that batches and ranks are combined by adding.
struct PassSums {
  double loss_sum = 0;         // over positions (or rows, or rows times outputs for MSE)
  int64_t loss_count = 0;      // how many of them; loss = loss_sum / loss_count
  double scored_loss_sum = 0;  // the loss over positions >= metric_from
  int64_t scored_count = 0;    // positions >= metric_from
  int64_t correct_count = 0;   // of those, where the arg max is the target; 0 for MSE
  int64_t guarded_count = 0;   // (row, step) pairs whose score gradient tie_guard held back (0 without a backward pass)
  double max_hidden_norm = 0;  // largest |h_t| over rows and steps (Euclidean)

  PassSums& operator+=(const PassSums& other) {
    loss_sum += other.loss_sum;
    loss_count += other.loss_count;
    scored_loss_sum += other.scored_loss_sum;
    scored_count += other.scored_count;
    correct_count += other.correct_count;
    guarded_count += other.guarded_count;
    max_hidden_norm = max_hidden_norm > other.max_hidden_norm ? max_hidden_norm : other.max_hidden_norm;
    return *this;
  }
};

}  // namespace sab::model
