#include "model/train/train_loop.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace sab::model {
namespace {

// Thrown out of an evaluation when a stop is requested in the middle of it.
struct Stopped {};

// Sums of a pass as numbers to add over ranks. The largest norm is not a sum: every rank puts its own into a place of
// its own.
// The last one counts the ranks that are asked to leave.
constexpr int64_t kSummed = 7;
constexpr int64_t kLeaving = 6;

std::vector<double> Pack(const PassSums& sums, int rank, int world_size) {
  std::vector<double> packed(static_cast<size_t>(kSummed + world_size), 0.0);
  packed[0] = sums.loss_sum;
  packed[1] = static_cast<double>(sums.loss_count);
  packed[2] = sums.scored_loss_sum;
  packed[3] = static_cast<double>(sums.scored_count);
  packed[4] = static_cast<double>(sums.correct_count);
  packed[5] = static_cast<double>(sums.guarded_count);
  packed[static_cast<size_t>(kSummed + rank)] = sums.max_hidden_norm;
  return packed;
}

template <typename T>
PassSums Unpack(const T* packed, int world_size) {
  PassSums sums;
  sums.loss_sum = packed[0];
  sums.loss_count = std::llround(packed[1]);
  sums.scored_loss_sum = packed[2];
  sums.scored_count = std::llround(packed[3]);
  sums.correct_count = std::llround(packed[4]);
  sums.guarded_count = std::llround(packed[5]);
  for (int64_t i = kSummed; i < kSummed + world_size; ++i)
    sums.max_hidden_norm = std::max(sums.max_hidden_norm, static_cast<double>(packed[i]));
  return sums;
}

double ValueOf(const std::vector<Figure>& figures, const std::string& name) {
  for (const Figure& figure : figures) {
    if (figure.name == name) return figure.value;
  }
  return std::nan("");
}

bool Due(int64_t step, int64_t every) {
  return every > 0 && step % every == 0;
}

}  // namespace

bool Condition::Holds(double measured) const {
  switch (op) {
    case Op::kAtLeast:
      return measured >= value;
    case Op::kAtMost:
      return measured <= value;
    case Op::kAbove:
      return measured > value;
    case Op::kBelow:
      return measured < value;
  }
  return false;
}

std::string Condition::Text() const {
  static constexpr const char* kOps[] = {">=", "<=", ">", "<"};
  char number[32];
  std::snprintf(number, sizeof(number), "%.10g", value);
  return metric + " " + kOps[static_cast<int>(op)] + " " + number;
}

TrainLoop::TrainLoop(TrainConfig config, Parts parts)
    : config_(std::move(config)),
      parts_(parts),
      my_rows_(ShareOf(config_.batch_size, parts.collective.rank(), parts.collective.world_size())),
      optimizer_(MakeOptimizer(config_.optimizer, parts.parameters.values())) {
  const int world_size = parts_.collective.world_size();
  if (config_.batch_size < world_size) {
    throw std::invalid_argument("train.batch_size: must be at least the number of replicas, " +
                                std::to_string(world_size) + ", got " + std::to_string(config_.batch_size));
  }
  if (config_.stop_when) RequireFigure(*config_.stop_when, "eval.stop_when");
  if (!config_.curriculum.lengths.empty()) RequireFigure(config_.curriculum.advance_when, "curriculum.advance_when");
  if (world_size > 1)
    exchange_ = at::empty({parts_.parameters.count() + kSummed + world_size}, parts_.parameters.values().options());
}

void TrainLoop::RequireFigure(const Condition& condition, const char* field) const {
  std::string known;
  for (const Figure& figure : parts_.task.Figures(PassSums())) {
    if (figure.name == condition.metric) return;
    known += (known.empty() ? "" : ", ") + figure.name;
  }
  throw std::invalid_argument(std::string(field) + ": this task has no figure '" + condition.metric + "'; it has " +
                              known);
}

void TrainLoop::Restore(const TrainState& state, const std::vector<NamedTensor>& optimizer_state) {
  optimizer_->Restore(optimizer_state, state.optimizer_steps);
  state_ = state;
}

std::string TrainLoop::Run() {
  SynchroniseParameters();
  if (!state_.stop_reason.empty()) return state_.stop_reason;
  try {
    if (state_.step == 0 && config_.checkpoint_initial) parts_.observer.OnCheckpoint(state_);
    while (state_.step < config_.steps) {
      if (stop_requested_) return "";
      parts_.observer.OnStep(Step());
      const bool last = state_.step == config_.steps;
      if (last || Due(state_.step, config_.eval_every)) EvaluateAll();
      if (last && state_.stop_reason.empty()) state_.stop_reason = "steps";
      const bool ended = !state_.stop_reason.empty();
      if (ended || leave_agreed_ || Due(state_.step, config_.checkpoint_every)) parts_.observer.OnCheckpoint(state_);
      if (ended) return state_.stop_reason;
      if (leave_agreed_) return "leave";
    }
  } catch (const Stopped&) {
    return "";
  }
  return "steps";
}

// Initial values come from the same numbers everywhere, checkpoints are the same file: this makes it certain, and
// connects the ranks before the first step is timed.
void TrainLoop::SynchroniseParameters() {
  if (parts_.collective.world_size() > 1) parts_.collective.Broadcast(parts_.parameters.values(), 0);
}

int64_t TrainLoop::TrainingLength() const {
  if (config_.curriculum.lengths.empty()) return parts_.task.length();
  return config_.curriculum.lengths.at(static_cast<size_t>(state_.curriculum_stage));
}

Batch TrainLoop::OnDevice(Batch batch) const {
  const at::Tensor& values = parts_.parameters.values();
  if (values.is_cuda()) {
    batch.inputs = batch.inputs.to(values.device());
    batch.targets = batch.targets.to(values.device());
    if (batch.lengths.defined()) batch.lengths = batch.lengths.to(values.device());
  }
  if (values.scalar_type() == at::kDouble) {
    if (batch.inputs.is_floating_point()) batch.inputs = batch.inputs.to(at::kDouble);
    if (batch.targets.is_floating_point()) batch.targets = batch.targets.to(at::kDouble);
  }
  return batch;
}

StepReport TrainLoop::Step() {
  StepReport report;
  report.step = state_.step + 1;
  report.length = TrainingLength();
  report.rows = config_.batch_size;
  const Batch batch = OnDevice(parts_.task.TrainingBatch(report.step, report.length, my_rows_));
  const int64_t loss_count = parts_.task.TrainingLossCount(report.step, report.length, config_.batch_size);
  at::Tensor& gradients = parts_.parameters.gradients();
  gradients.zero_();
  const PassSums sums = ReduceGradients(parts_.engine.ForwardBackward(batch, 1.0 / static_cast<double>(loss_count)));

  report.gradient_norm = GradientNorm(gradients);
  report.learning_rate = config_.learning_rate * config_.schedule.Factor(report.step, config_.steps);
  report.skipped = !std::isfinite(report.gradient_norm);
  state_.step = report.step;
  CountNonfinite(report.gradient_norm);
  if (!report.skipped) {
    // As torch.nn.utils.clip_grad_norm_.
    const double scale = config_.clip_norm > 0 ? std::min(1.0, config_.clip_norm / (report.gradient_norm + 1e-6)) : 1.0;
    optimizer_->Step(parts_.parameters.values(), gradients, report.learning_rate, scale);
    state_.optimizer_steps = optimizer_->steps();
  }
  report.figures = parts_.task.Figures(sums);
  report.max_hidden_norm = sums.max_hidden_norm;
  report.guarded_fraction =
      static_cast<double>(sums.guarded_count) / static_cast<double>(config_.batch_size * batch.steps());
  report.skipped_steps = state_.skipped_steps;
  return report;
}

void TrainLoop::CountNonfinite(double norm) {
  if (std::isfinite(norm)) {
    state_.nonfinite_in_a_row = 0;
    return;
  }
  ++state_.skipped_steps;
  if (++state_.nonfinite_in_a_row < config_.max_nonfinite_steps) return;
  throw PermanentError("step " + std::to_string(state_.step) + ": the gradient was not finite in " +
                       std::to_string(state_.nonfinite_in_a_row) +
                       " steps in a row (train.max_nonfinite_steps); try a smaller train.learning_rate, a "
                       "train.clip_norm, or model.init: scaled");
}

PassSums TrainLoop::ReduceGradients(const PassSums& mine) {
  const int world_size = parts_.collective.world_size();
  const bool leave = leave_requested_;
  leave_agreed_ = leave;
  if (world_size == 1) return mine;
  at::Tensor& gradients = parts_.parameters.gradients();
  const int64_t n = gradients.numel();
  std::vector<double> packed = Pack(mine, parts_.collective.rank(), world_size);
  packed[kLeaving] = leave ? 1 : 0;
  at::Tensor tail = exchange_.narrow(0, n, kSummed + world_size);
  at::Tensor head = exchange_.narrow(0, 0, n);
  head.copy_(gradients);
  at::Tensor host = at::empty({kSummed + world_size}, at::kDouble);
  std::copy(packed.begin(), packed.end(), host.data_ptr<double>());
  tail.copy_(host);
  parts_.collective.AllReduceSum(exchange_);
  gradients.copy_(head);
  host.copy_(tail);
  leave_agreed_ = host.data_ptr<double>()[kLeaving] > 0;
  return Unpack(host.data_ptr<double>(), world_size);
}

PassSums TrainLoop::ReduceSums(const PassSums& mine) {
  const int world_size = parts_.collective.world_size();
  if (world_size == 1) return mine;
  const std::vector<double> packed = Pack(mine, parts_.collective.rank(), world_size);
  at::Tensor host = at::empty({kSummed + world_size}, at::kDouble);
  std::copy(packed.begin(), packed.end(), host.data_ptr<double>());
  at::Tensor shared = host.to(parts_.parameters.values().device());
  parts_.collective.AllReduceSum(shared);
  host.copy_(shared);
  return Unpack(host.data_ptr<double>(), world_size);
}

EvalReport TrainLoop::EvaluateAt(int64_t length) {
  const RowRange mine = ShareOf(parts_.task.EvaluationRows(config_.eval_sequences), parts_.collective.rank(),
                                parts_.collective.world_size());
  PassSums sums;
  for (int64_t done = 0; done < mine.count; done += my_rows_.count) {
    if (stop_requested_) throw Stopped();
    const RowRange rows = {mine.first + done, std::min(my_rows_.count, mine.count - done)};
    sums += parts_.engine.Evaluate(OnDevice(parts_.task.EvaluationBatch(length, rows)));
  }
  sums = ReduceSums(sums);
  EvalReport report = {state_.step, length, parts_.task.Figures(sums), sums.max_hidden_norm};
  parts_.observer.OnEval(report);
  return report;
}

void TrainLoop::EvaluateAll() {
  std::vector<int64_t> lengths = config_.eval_lengths;
  if (lengths.empty() || parts_.task.length() == 0) lengths = {parts_.task.length()};
  std::optional<EvalReport> at_training_length;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const EvalReport report = EvaluateAt(lengths[i]);
    if (lengths[i] == TrainingLength()) at_training_length = report;
    if (i > 0) continue;
    state_.eval_loss = ValueOf(report.figures, "loss");
    if (config_.stop_when && config_.stop_when->Holds(ValueOf(report.figures, config_.stop_when->metric))) {
      state_.stop_reason = "stop_when: " + config_.stop_when->Text() + " at step " + std::to_string(state_.step);
    }
  }
  if (state_.curriculum_stage + 1 >= static_cast<int64_t>(config_.curriculum.lengths.size())) return;
  AdvanceCurriculum(at_training_length ? *at_training_length : EvaluateAt(TrainingLength()));
}

void TrainLoop::AdvanceCurriculum(const EvalReport& at_training_length) {
  const Condition& condition = config_.curriculum.advance_when;
  if (condition.Holds(ValueOf(at_training_length.figures, condition.metric))) ++state_.curriculum_stage;
}

}  // namespace sab::model
