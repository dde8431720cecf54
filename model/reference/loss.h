#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/batch.h"
#include "model/config.h"
#include "model/reference/cell.h"
#include "model/reference/recurrence.h"

namespace sab::model {

// The output layer's y = V [h ; s] + b: (..,H) -> (..,O).
at::Tensor Output(const Weights& weights, const States& states);

// What LossSum::Figures returned, as numbers. Waits for the device.
PassSums ToSums(const at::Tensor& figures);

// Adds up the loss and the figures of a batch, whose steps come in consecutive pieces. `weights` and `batch` must
// outlive it.
class LossSum {
 public:
  LossSum(const TaskShape& shape, const Weights& weights, const Batch& batch);

  // The states of steps first .. first + t - 1 (0-based).
  void Add(const States& states, int64_t first);

  // After the last piece: the sum over all positions, differentiable. Undefined before.
  const at::Tensor& loss() const { return loss_; }
  // After the last piece: what ToSums reads, (7) double, on the device and without waiting for it.
  at::Tensor Figures() const;
  // The same as numbers. Waits for the device.
  PassSums Sums() const { return ToSums(Figures()); }

 private:
  void AddEveryStep(const States& states, int64_t first);
  void KeepLastStates(const States& states, int64_t first);
  void AddLastStep();
  void AddFigures(const States& states, int64_t first);
  // (t,B) bool: steps from `from` on that are before their row's end.
  at::Tensor Inside(int64_t first, int64_t steps, int64_t from) const;

  const TaskShape shape_;
  const Weights& weights_;
  const Batch& batch_;
  at::Tensor lengths_;  // (B)
  at::Tensor loss_;     // ()
  States last_;         // (B,H): each row's at its last step, as far as seen
  at::Tensor scored_loss_, scored_count_, correct_, guarded_, norm_;  // () double
};

}  // namespace sab::model
