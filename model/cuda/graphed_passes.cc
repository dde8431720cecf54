#include "model/cuda/graphed_passes.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <c10/util/Exception.h>

#include <utility>

namespace sab::model::cuda {
namespace {

using at::Tensor;

// Plain passes of a kind before one is recorded. They also have libraries and autograd's threads set up, which a
// capture does not allow.
constexpr int kPlainPasses = 2;

std::vector<int64_t> Geometry(const Tensor& t) {
  std::vector<int64_t> numbers = t.sizes().vec();
  numbers.insert(numbers.end(), t.strides().begin(), t.strides().end());
  return numbers;
}

Batch Clone(const Batch& batch) {
  Batch copy = batch;
  for (Tensor* t : {&copy.inputs, &copy.targets, &copy.lengths}) {
    if (t->defined()) *t = t->clone();
  }
  return copy;
}

// Not-a-numbers are equal to themselves here. Waits for the device.
bool HaveSameBits(const Tensor& a, const Tensor& b) {
  const at::ScalarType bits = a.element_size() == sizeof(int64_t) ? at::kLong : at::kInt;
  return at::equal(a.view(bits), b.view(bits));
}

std::string TextOf(const std::exception& error) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  return of_torch != nullptr ? of_torch->what_without_backtrace() : error.what();
}

}  // namespace

GraphedPasses::GraphedPasses(Train train, ParameterSet& parameters, Launcher& launcher)
    : train_(std::move(train)), parameters_(parameters), launcher_(launcher) {}

Tensor GraphedPasses::Run(const Batch& batch, double loss_scale) {
  if (given_up_) return train_(batch, loss_scale);
  const PassKind kind = KindOf(batch, loss_scale);
  in_a_row_ = kind == last_ ? in_a_row_ + 1 : 1;
  last_ = kind;
  if (captured_ != nullptr && captured_->kind == kind) {
    return captured_->proven ? Replay(batch) : Prove(batch, loss_scale);
  }
  Tensor figures = train_(batch, loss_scale);
  if (in_a_row_ == kPlainPasses) Capture(kind, batch, figures);
  return figures;
}

GraphedPasses::PassKind GraphedPasses::KindOf(const Batch& batch, double loss_scale) const {
  PassKind kind;
  kind.inputs = Geometry(batch.inputs);
  kind.targets = Geometry(batch.targets);
  kind.inputs_type = batch.inputs.scalar_type();
  kind.targets_type = batch.targets.scalar_type();
  kind.has_lengths = batch.lengths.defined();
  kind.metric_from = batch.metric_from;
  kind.loss_scale = loss_scale;
  kind.values = parameters_.values().const_data_ptr();
  kind.gradients = parameters_.gradients().const_data_ptr();
  return kind;
}

void GraphedPasses::Capture(const PassKind& kind, const Batch& batch, const Tensor& figures) {
  captured_ = nullptr;  // gives its memory back first
  const Tensor gradients = parameters_.gradients().clone();
  auto next = std::make_unique<Captured>();
  try {
    next->kind = kind;
    next->batch = Clone(batch);
    next->figures = at::empty_like(figures);
    next->graph =
        launcher_.Capture([this, to = next.get()] { to->figures.copy_(train_(to->batch, to->kind.loss_scale)); });
    captured_ = std::move(next);
  } catch (const std::exception& error) {
    GiveUp("recording a training pass: " + TextOf(error));
  }
  parameters_.gradients().copy_(gradients);  // a recording that went wrong may have run in part
}

Tensor GraphedPasses::Replay(const Batch& batch) {
  Batch& to = captured_->batch;
  to.inputs.copy_(batch.inputs);
  to.targets.copy_(batch.targets);
  if (to.lengths.defined()) to.lengths.copy_(batch.lengths);
  captured_->graph->Replay();
  return captured_->figures;
}

Tensor GraphedPasses::Prove(const Batch& batch, double loss_scale) {
  Tensor& gradients = parameters_.gradients();
  const Tensor before = gradients.clone();
  Tensor figures = train_(batch, loss_scale);
  const Tensor expected = gradients.clone();
  gradients.copy_(before);
  try {
    const Tensor replayed = Replay(batch);
    captured_->proven = HaveSameBits(replayed, figures) && HaveSameBits(gradients, expected);
    if (!captured_->proven) GiveUp("a replayed training pass has other results than a plain one");
  } catch (const std::exception& error) {
    GiveUp("replaying a training pass: " + TextOf(error));
  }
  gradients.copy_(expected);
  return figures;
}

void GraphedPasses::GiveUp(const std::string& why) {
  given_up_ = true;
  captured_ = nullptr;
  TORCH_WARN("no CUDA graphs from now on: ", why,
             "; training goes on with plain launches, as model.cuda_graphs: off has it");
}

}  // namespace sab::model::cuda
