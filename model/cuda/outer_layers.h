#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "model/batch.h"
#include "model/parameters.h"
#include "model/reference/cell.h"
#include "model/reference/loss.h"
#include "model/reference/recurrence.h"

namespace sab::model::cuda {

// What of a network is not recurrent: W_ih in front, the output layer and the loss behind. These are the reference's
// own operations under LibTorch's autograd, for some steps at a time.
class OuterLayers {
 public:
  OuterLayers(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters, bool with_gradients);

  const TaskShape& shape() const { return shape_; }
  const Weights& weights() const { return weights_; }

  // W_ih x + b_ih + b_hh of steps first .. first + count - 1 (0-based): (count,B,4H). No gradients.
  at::Tensor Project(const Batch& batch, int64_t first, int64_t count) const;
  // Adds to the gradients of its parameters, given those of what Project returned.
  void BackwardProject(const Batch& batch, int64_t first, int64_t count, const at::Tensor& d_projected) const;

  struct StateGradients {
    at::Tensor hidden;   // (count,B,H)
    at::Tensor context;  // (count,B,H); undefined for kind lstm
  };
  // Of loss * scale summed over those steps, and adds to the gradients of the output layer. Cross-entropy at every
  // step.
  StateGradients BackwardEveryStep(const Batch& batch, int64_t first, const States& states, double scale) const;
  // The same for the other losses, given each row's states at its last step, (1,B,H).
  StateGradients BackwardLastStep(const Batch& batch, const States& last, double scale) const;

  // Adds to the gradient of a parameter.
  void AddGradient(const std::string& name, const at::Tensor& gradient) const;

 private:
  StateGradients Backward(const Batch& piece, const States& states, double scale) const;
  // The leaves of these parameters, those that exist.
  std::vector<size_t> Find(const std::vector<std::string>& names) const;

  const TaskShape shape_;
  ParameterSet& parameters_;
  Weights weights_;
};

}  // namespace sab::model::cuda
