#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace sab::model {

// A parameter: its name in checkpoints, and views into the flat buffers.
struct Parameter {
  std::string name;     // "cell.weight_ih"
  at::Tensor value;     // view of ParameterSet::values()
  at::Tensor gradient;  // view of ParameterSet::gradients()
};

// All parameters of a network in one flat buffer, their gradients in another: one all-reduce, one norm, one optimiser
// sweep. Order, names and shapes are a function of (config, shape) alone.
//   cell.weight_ih (4H,I)  cell.weight_hh (4H,H)  cell.bias_ih (4H)  cell.bias_hh (4H)      gates in the order i, f, g,
//   o attention.memory.weight (H,H)  attention.query.weight (H,H)  attention.score.weight (H)               score mlp,
//   kind attention attention.query_score.weight (H)  attention.memory_score.weight (H) score separable output.weight
//   (O,2H or H)  output.bias (O)   embedding.weight (V,E) when embedding_size > 0; symbols without it: I = V
class ParameterSet {
 public:
  // Initialised from config.seed by counter-based random numbers: the same on every device and for any number of ranks.
  // Throws std::invalid_argument for shapes that make no network.
  ParameterSet(const ModelConfig& config, const TaskShape& shape, at::Device device);

  const std::vector<Parameter>& all() const { return parameters_; }
  // Throws std::out_of_range with the name.
  const Parameter& Get(const std::string& name) const;

  // The memory behind values() and Parameter::value changes when a state is frozen for a checkpoint
  // (Optimizer::Freeze): pointers into it hold for one pass.
  at::Tensor& values() { return values_; }        // (N) float, or double for Precision::kFp64
  at::Tensor& gradients() { return gradients_; }  // (N)
  const at::Tensor& values() const { return values_; }
  const at::Tensor& gradients() const { return gradients_; }
  int64_t count() const { return values_.numel(); }

 private:
  std::vector<Parameter> parameters_;
  at::Tensor values_;
  at::Tensor gradients_;
};

}  // namespace sab::model
