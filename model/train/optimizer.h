#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

namespace sab::model {

enum class OptimizerKind { kAdam, kSgd };

struct OptimizerOptions {
  OptimizerKind kind = OptimizerKind::kAdam;
  double beta1 = 0.9;  // Adam
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double momentum = 0;      // SGD
  double weight_decay = 0;  // L2, coupled: added to the gradient times the parameter
};

// A tensor of the optimiser's state, under its name in checkpoints.
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

// Updates the flat buffer of parameters from that of gradients, as torch.optim.Adam and torch.optim.SGD do. One thread.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // One update of `values` (N), float or double, with `gradient_scale` times `gradients`, which may be changed.
  virtual void Step(at::Tensor& values, at::Tensor& gradients, double learning_rate, double gradient_scale) = 0;

  // Updates done, skipped ones not counted.
  virtual int64_t steps() const = 0;

  // The present state, as views: "adam.exp_avg", "adam.exp_avg_sq", or "sgd.momentum_buffer", each (N). Empty for plain
  // SGD.
  virtual std::vector<NamedTensor> State() const = 0;
  // Copies a state in. Throws std::invalid_argument naming the tensor that is missing or has another size.
  void Restore(const std::vector<NamedTensor>& state, int64_t steps);

 protected:
  virtual void set_steps(int64_t steps) = 0;
};

// For a buffer of the size, type and device of `values`.
std::unique_ptr<Optimizer> MakeOptimizer(const OptimizerOptions& options, const at::Tensor& values);

// Euclidean norm in double; infinite or NaN exactly when an element is. Waits for the device.
double GradientNorm(const at::Tensor& gradients);

}  // namespace sab::model
