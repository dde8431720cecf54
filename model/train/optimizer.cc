#include "model/train/optimizer.h"

#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <stdexcept>

#include "model/train/sweeps.h"

namespace sab::model {
namespace {

// Calls sweep(pointer type tag) for the buffers' element type.
template <typename Sweep>
void ForElementType(const at::Tensor& values, Sweep sweep) {
  if (values.scalar_type() == at::kDouble) {
    sweep(double());
  } else {
    sweep(float());
  }
}

class Adam : public Optimizer {
 public:
  Adam(const OptimizerOptions& options, const at::Tensor& values)
      : options_(options), mean_(at::zeros_like(values)), square_(at::zeros_like(values)) {}

  void Step(at::Tensor& values, at::Tensor& gradients, double learning_rate, double gradient_scale) override {
    ++steps_;
    if (values.is_cuda()) {
      StepOnDevice(values, gradients, learning_rate, gradient_scale);
      return;
    }
    const double step = static_cast<double>(steps_);
    const AdamFactors factors = {learning_rate,
                                 options_.beta1,
                                 options_.beta2,
                                 options_.epsilon,
                                 options_.weight_decay,
                                 gradient_scale,
                                 1 - std::pow(options_.beta1, step),
                                 1 - std::pow(options_.beta2, step)};
    ForElementType(values, [&](auto tag) {
      using T = decltype(tag);
      AdamSweep(values.data_ptr<T>(), gradients.data_ptr<T>(), mean_.data_ptr<T>(), square_.data_ptr<T>(),
                values.numel(), factors);
    });
  }

  int64_t steps() const override { return steps_; }
  std::vector<NamedTensor> State() const override { return {{"adam.exp_avg", mean_}, {"adam.exp_avg_sq", square_}}; }

 protected:
  void set_steps(int64_t steps) override { steps_ = steps; }

 private:
  void StepOnDevice(at::Tensor& values, at::Tensor& gradients, double learning_rate, double gradient_scale) {
    if (gradient_scale != 1) gradients.mul_(gradient_scale);
    // The kernel takes the number of this update from the device.
    at::Tensor step = at::full({}, static_cast<double>(steps_), values.options().dtype(at::kFloat));
    at::_fused_adam_({values}, {gradients}, {mean_}, {square_}, {}, {step}, learning_rate, options_.beta1,
                     options_.beta2, options_.weight_decay, options_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
  }

  const OptimizerOptions options_;
  at::Tensor mean_;    // (N)
  at::Tensor square_;  // (N)
  int64_t steps_ = 0;
};

class Sgd : public Optimizer {
 public:
  Sgd(const OptimizerOptions& options, const at::Tensor& values) : options_(options) {
    if (options.momentum != 0) buffer_ = at::zeros_like(values);
  }

  void Step(at::Tensor& values, at::Tensor& gradients, double learning_rate, double gradient_scale) override {
    ++steps_;
    if (values.is_cuda()) {
      StepOnDevice(values, gradients, learning_rate, gradient_scale);
      return;
    }
    const SgdFactors factors = {learning_rate, options_.momentum, options_.weight_decay, gradient_scale};
    ForElementType(values, [&](auto tag) {
      using T = decltype(tag);
      T* buffer = buffer_.defined() ? buffer_.data_ptr<T>() : nullptr;
      SgdSweep(values.data_ptr<T>(), gradients.data_ptr<T>(), buffer, values.numel(), factors);
    });
  }

  int64_t steps() const override { return steps_; }
  std::vector<NamedTensor> State() const override {
    if (!buffer_.defined()) return {};
    return {{"sgd.momentum_buffer", buffer_}};
  }

 protected:
  void set_steps(int64_t steps) override { steps_ = steps; }

 private:
  void StepOnDevice(at::Tensor& values, at::Tensor& gradients, double learning_rate, double gradient_scale) {
    if (gradient_scale != 1) gradients.mul_(gradient_scale);
    if (options_.weight_decay != 0) gradients.add_(values, options_.weight_decay);
    if (buffer_.defined()) buffer_.mul_(options_.momentum).add_(gradients);
    values.add_(buffer_.defined() ? buffer_ : gradients, -learning_rate);
  }

  const OptimizerOptions options_;
  at::Tensor buffer_;  // (N), undefined without momentum
  int64_t steps_ = 0;
};

}  // namespace

void Optimizer::Restore(const std::vector<NamedTensor>& state, int64_t steps) {
  for (NamedTensor& mine : std::vector<NamedTensor>(State())) {
    const NamedTensor* found = nullptr;
    for (const NamedTensor& other : state) {
      if (other.name == mine.name) found = &other;
    }
    if (found == nullptr) throw std::invalid_argument("optimiser state: " + mine.name + " is missing");
    if (found->tensor.numel() != mine.tensor.numel()) {
      throw std::invalid_argument("optimiser state: " + mine.name + " has " + std::to_string(found->tensor.numel()) +
                                  " elements, the network has " + std::to_string(mine.tensor.numel()));
    }
    mine.tensor.copy_(found->tensor);
  }
  set_steps(steps);
}

std::unique_ptr<Optimizer> MakeOptimizer(const OptimizerOptions& options, const at::Tensor& values) {
  if (options.kind == OptimizerKind::kSgd) return std::make_unique<Sgd>(options, values);
  return std::make_unique<Adam>(options, values);
}

double GradientNorm(const at::Tensor& gradients) {
  if (!gradients.is_cpu()) {
    return at::linalg_vector_norm(gradients, 2, c10::nullopt, false, at::kDouble).item<double>();
  }
  double sum = 0;
  ForElementType(gradients, [&](auto tag) { sum = SquareSum(gradients.data_ptr<decltype(tag)>(), gradients.numel()); });
  return std::sqrt(sum);
}

}  // namespace sab::model
