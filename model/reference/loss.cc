#include "model/reference/loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

namespace sab::model {
namespace {

using at::Tensor;

constexpr int64_t kIgnored = -100;

// (N,O), (N) -> (N)
Tensor CrossEntropy(const Tensor& logits, const Tensor& targets) {
  return at::cross_entropy_loss(logits, targets, /*weight=*/{}, at::Reduction::None, kIgnored);
}

Tensor Total(const Tensor& values) {
  return values.detach().sum(at::kDouble);
}

}  // namespace

Tensor Output(const Weights& weights, const States& states) {
  const Tensor features = states.context.defined() ? at::cat({states.hidden, states.context}, -1) : states.hidden;
  return Product(features, weights.output) + weights.output_bias;
}

LossSum::LossSum(const TaskShape& shape, const Weights& weights, const Batch& batch)
    : shape_(shape), weights_(weights), batch_(batch) {
  const at::TensorOptions on_device = weights.output_bias.options();
  lengths_ =
      batch.lengths.defined() ? batch.lengths : at::full({batch.rows()}, batch.steps(), on_device.dtype(at::kLong));
  const Tensor zero = at::zeros({}, on_device.dtype(at::kDouble));
  scored_loss_ = scored_count_ = correct_ = guarded_ = norm_ = zero;
}

void LossSum::Add(const States& states, int64_t first) {
  AddFigures(states, first);
  if (shape_.loss == LossKind::kCrossEntropyEveryStep) {
    AddEveryStep(states, first);
    return;
  }
  KeepLastStates(states, first);
  if (first + states.hidden.size(0) == batch_.steps()) AddLastStep();
}

Tensor LossSum::Inside(int64_t first, int64_t steps, int64_t from) const {
  const Tensor step = at::arange(first, first + steps, lengths_.options()).unsqueeze(1);
  return (step < lengths_).logical_and(step >= from);
}

void LossSum::AddFigures(const States& states, int64_t first) {
  const at::NoGradGuard no_grad;
  const Tensor inside = Inside(first, states.hidden.size(0), 0);
  const Tensor norms = states.hidden.norm(2, /*dim=*/2).to(at::kDouble);
  norm_ = at::maximum(norm_, at::where(inside, norms, 0).max());
  if (states.guarded.defined()) guarded_ = guarded_ + Total(states.guarded.logical_and(inside));
}

void LossSum::AddEveryStep(const States& states, int64_t first) {
  const int64_t steps = states.hidden.size(0);
  const Tensor logits = Output(weights_, states).flatten(0, 1);
  Tensor targets = batch_.targets.narrow(1, first, steps).t();
  if (batch_.lengths.defined()) targets = targets.masked_fill(Inside(first, steps, 0).logical_not(), kIgnored);
  targets = targets.reshape(-1);
  const Tensor losses = CrossEntropy(logits, targets);
  const Tensor sum = at::GradMode::is_enabled() ? losses.sum() : Total(losses);
  loss_ = loss_.defined() ? loss_ + sum : sum;

  const at::NoGradGuard no_grad;
  const Tensor scored = Inside(first, steps, batch_.metric_from).reshape(-1);
  scored_loss_ = scored_loss_ + Total(at::where(scored, losses, 0));
  scored_count_ = scored_count_ + Total(scored);
  correct_ = correct_ + Total(scored.logical_and(logits.argmax(1) == targets));
}

void LossSum::KeepLastStates(const States& states, int64_t first) {
  const int64_t steps = states.hidden.size(0);
  const Tensor position = lengths_ - 1 - first;  // (B)
  const Tensor here = (position >= 0).logical_and(position < steps).unsqueeze(1);
  const Tensor clamped = position.clamp(0, steps - 1);
  const auto keep = [&](const Tensor& values, Tensor& kept) {
    if (!values.defined()) return;
    const Tensor index = clamped.view({1, -1, 1}).expand({1, values.size(1), values.size(2)});
    const Tensor picked = values.gather(0, index).squeeze(0);
    kept = kept.defined() ? at::where(here, picked, kept) : picked;
  };
  keep(states.hidden, last_.hidden);
  keep(states.context, last_.context);
}

void LossSum::AddLastStep() {
  const Tensor outputs = Output(weights_, last_);  // (B,O)
  const Tensor scored = lengths_ > batch_.metric_from;
  Tensor losses;  // (B) or (B,O)
  if (shape_.loss == LossKind::kMseLastStep) {
    losses = (outputs - batch_.targets.to(outputs.scalar_type())).square();
    scored_loss_ = Total(at::where(scored.unsqueeze(1), losses.detach(), 0));
    scored_count_ = Total(scored) * shape_.outputs;
  } else {
    losses = CrossEntropy(outputs, batch_.targets);
    scored_loss_ = Total(at::where(scored, losses.detach(), 0));
    scored_count_ = Total(scored);
    correct_ = Total(scored.logical_and(outputs.detach().argmax(1) == batch_.targets));
  }
  loss_ = losses.sum();
}

Tensor LossSum::Figures() const {
  Tensor count = shape_.loss == LossKind::kCrossEntropyEveryStep ? Total(lengths_) : Total(lengths_ > 0);
  if (shape_.loss == LossKind::kMseLastStep) count = count * shape_.outputs;
  return at::stack({Total(loss_), count, scored_loss_, scored_count_, correct_, guarded_, norm_});
}

PassSums ToSums(const Tensor& figures) {
  const Tensor on_host = figures.to(at::kCPU);
  const double* value = on_host.const_data_ptr<double>();
  PassSums sums;
  sums.loss_sum = value[0];
  sums.loss_count = static_cast<int64_t>(value[1]);
  sums.scored_loss_sum = value[2];
  sums.scored_count = static_cast<int64_t>(value[3]);
  sums.correct_count = static_cast<int64_t>(value[4]);
  sums.guarded_count = static_cast<int64_t>(value[5]);
  sums.max_hidden_norm = value[6];
  return sums;
}

}  // namespace sab::model
