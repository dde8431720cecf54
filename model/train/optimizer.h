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

// Parameters and optimiser between two steps, in memory that no later step writes to.
struct FrozenState {
  at::Tensor values;                   // (N)
  std::vector<NamedTensor> optimizer;  // as Optimizer::State
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
  // Gives the present parameters and state away for reading, without copying them: the next Step leaves this memory
  // alone and writes into a second set of buffers, which is kept from then on and used in turns. `values` and its views
  // then refer to other memory: whoever reads them takes their pointers anew at each pass. Costs the memory of one more
  // copy of parameters and state; of two, when the state given away before is still held. On a GPU it copies to the CPU
  // instead.
  FrozenState Freeze(at::Tensor& values);
  // Makes the second set of buffers before it is needed, so that no step has to wait for new memory. Idempotent.
  void Reserve(const at::Tensor& values);
  // Before anybody but Step writes to `values` or State(): what was given away stays as it is.
  void Thaw(at::Tensor& values);

  // Copies a state in. Throws std::invalid_argument naming the tensor that is missing or has another size.
  void Restore(const std::vector<NamedTensor>& state, int64_t steps);

 protected:
  virtual void set_steps(int64_t steps) = 0;
  // The tensors of State, to exchange.
  virtual std::vector<at::Tensor*> StateTensors() = 0;
  // On the CPU: calls sweep(first, count) so that all elements are covered, in order. After a Freeze each part is
  // copied into the other buffers just before it is swept, while it is in the cache, and the buffers are exchanged at
  // the start.
  template <typename Sweep>
  void Cover(at::Tensor& values, const Sweep& sweep);

 private:
  // The other set: values and state. Whoever was given it may still read it; then there is a new one.
  std::vector<at::Tensor> TakeSpare(const at::Tensor& values);
  // Puts `next` in the place of the present memory, which becomes the spare. Returns what was there.
  std::vector<at::Tensor> Exchange(at::Tensor& values, std::vector<at::Tensor> next);

  bool frozen_ = false;
  at::Tensor present_;             // owns the memory of `values` once it was given away for the first time
  std::vector<at::Tensor> spare_;  // values, state; empty: none yet
};

// For a buffer of the size, type and device of `values`.
std::unique_ptr<Optimizer> MakeOptimizer(const OptimizerOptions& options, const at::Tensor& values);

// Euclidean norm in double; infinite or NaN exactly when an element is. Waits for the device.
double GradientNorm(const at::Tensor& gradients);

}  // namespace sab::model
