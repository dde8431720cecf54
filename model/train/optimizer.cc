#include "model/train/optimizer.h"

#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

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

// Elements copied and swept at a time: parameters, gradients and two tensors of state of that many fit a first-level
// cache.
constexpr int64_t kChunk = 1024;

// The memory that `live` and its views refer to, in a tensor of its own; they go on referring to it.
at::Tensor Detach(at::Tensor& live) {
  c10::StorageImpl* storage = live.storage().unsafeGetStorageImpl();
  void* data = storage->mutable_data();
  c10::DataPtr owner = storage->set_data_ptr(c10::DataPtr(data, live.device()));
  c10::Storage memory(c10::Storage::use_byte_size_t(), storage->nbytes(), std::move(owner), nullptr, false);
  at::Tensor present = at::empty({0}, live.options());
  return present.set_(memory, live.storage_offset(), live.sizes(), live.strides());
}

// Lets `live` and its views refer to the memory of `memory`, and keeps that alive for as long as they do.
void Attach(at::Tensor& live, const at::Tensor& memory) {
  auto* reference = new at::Tensor(memory);
  live.storage().unsafeGetStorageImpl()->set_data_ptr(c10::DataPtr(
      memory.data_ptr(), reference, [](void* context) { delete static_cast<at::Tensor*>(context); }, live.device()));
}

bool IsHeldElsewhere(const at::Tensor& tensor, size_t own_references) {
  return tensor.storage().use_count() > own_references || tensor.use_count() > own_references;
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
    Cover(values, [&](int64_t first, int64_t count) {
      ForElementType(values, [&](auto tag) {
        using T = decltype(tag);
        AdamSweep(values.data_ptr<T>() + first, gradients.data_ptr<T>() + first, mean_.data_ptr<T>() + first,
                  square_.data_ptr<T>() + first, count, factors);
      });
    });
  }

  int64_t steps() const override { return steps_; }
  std::vector<NamedTensor> State() const override { return {{"adam.exp_avg", mean_}, {"adam.exp_avg_sq", square_}}; }

 protected:
  void set_steps(int64_t steps) override { steps_ = steps; }
  std::vector<at::Tensor*> StateTensors() override { return {&mean_, &square_}; }

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
    Cover(values, [&](int64_t first, int64_t count) {
      ForElementType(values, [&](auto tag) {
        using T = decltype(tag);
        T* buffer = buffer_.defined() ? buffer_.data_ptr<T>() + first : nullptr;
        SgdSweep(values.data_ptr<T>() + first, gradients.data_ptr<T>() + first, buffer, count, factors);
      });
    });
  }

  int64_t steps() const override { return steps_; }
  std::vector<NamedTensor> State() const override {
    if (!buffer_.defined()) return {};
    return {{"sgd.momentum_buffer", buffer_}};
  }

 protected:
  void set_steps(int64_t steps) override { steps_ = steps; }
  std::vector<at::Tensor*> StateTensors() override {
    if (!buffer_.defined()) return {};
    return {&buffer_};
  }

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

template <typename Sweep>
void Optimizer::Cover(at::Tensor& values, const Sweep& sweep) {
  const int64_t n = values.numel();
  if (!frozen_) {
    sweep(0, n);
    return;
  }
  frozen_ = false;
  const std::vector<at::Tensor> before = Exchange(values, TakeSpare(values));
  std::vector<at::Tensor> after = {values};
  for (const at::Tensor* tensor : StateTensors()) after.push_back(*tensor);
  const size_t bytes = values.element_size();
  for (int64_t first = 0; first < n; first += kChunk) {
    const int64_t count = std::min(kChunk, n - first);
    for (size_t i = 0; i < after.size(); ++i) {
      const size_t offset = static_cast<size_t>(first) * bytes;
      std::memcpy(static_cast<char*>(after[i].data_ptr()) + offset,
                  static_cast<const char*>(before[i].const_data_ptr()) + offset, static_cast<size_t>(count) * bytes);
    }
    sweep(first, count);
  }
}

std::vector<at::Tensor> Optimizer::TakeSpare(const at::Tensor& values) {
  std::vector<at::Tensor> spare = std::exchange(spare_, {});
  const bool free = !spare.empty() && std::none_of(spare.begin(), spare.end(),
                                                   [](const at::Tensor& tensor) { return IsHeldElsewhere(tensor, 1); });
  if (free) return spare;
  spare = {at::empty_like(values)};
  for (const at::Tensor* tensor : StateTensors()) spare.push_back(at::empty_like(*tensor));
  return spare;
}

void Optimizer::Reserve(const at::Tensor& values) {
  if (!values.is_cpu() || !spare_.empty()) return;
  spare_ = TakeSpare(values);
  for (at::Tensor& tensor : spare_)
    tensor.fill_(1);  // touches every page; a fill with zeros may leave that to the first use
}

std::vector<at::Tensor> Optimizer::Exchange(at::Tensor& values, std::vector<at::Tensor> next) {
  std::vector<at::Tensor> before = {present_};
  Attach(values, next[0]);
  present_ = next[0];
  const std::vector<at::Tensor*> state = StateTensors();
  for (size_t i = 0; i < state.size(); ++i) before.push_back(std::exchange(*state[i], next[i + 1]));
  spare_ = before;
  return before;
}

FrozenState Optimizer::Freeze(at::Tensor& values) {
  FrozenState frozen;
  if (!values.is_cpu()) {
    const auto copy = [](const at::Tensor& tensor) { return tensor.to(at::kCPU, tensor.scalar_type(), false, true); };
    frozen.values = copy(values);
    for (const NamedTensor& named : State()) frozen.optimizer.push_back({named.name, copy(named.tensor)});
    return frozen;
  }
  if (!present_.defined()) {
    present_ = Detach(values);
    Attach(values, present_);
  }
  frozen_ = true;
  frozen.values = present_;
  frozen.optimizer = State();
  return frozen;
}

void Optimizer::Thaw(at::Tensor& values) {
  if (!frozen_) return;
  frozen_ = false;
  const std::vector<at::Tensor> before = Exchange(values, TakeSpare(values));
  values.copy_(before[0]);
  const std::vector<at::Tensor*> state = StateTensors();
  for (size_t i = 0; i < state.size(); ++i) state[i]->copy_(before[i + 1]);
}

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
