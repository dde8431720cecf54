#include "model/train/train_loop.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>

#include "model/random.h"
#include "model/train/on_device.h"

namespace sab::model {
namespace {

// Thrown out of an evaluation when a stop is requested in the middle of it.
struct Stopped {};

// Sums of a pass as numbers to add over ranks. The largest norm is not a sum: every rank puts its own into a place of
// its own.
// The last one counts the ranks that are asked to leave.
constexpr int64_t kSummed = 7;
constexpr int64_t kLeaving = 6;

constexpr uint64_t kLengthSalt = 0x6c656e677468;  // keeps the draws of lengths apart from those of data and parameters

// (kSummed + world_size)
at::Tensor Pack(const PassSums& sums, int rank, int world_size) {
  at::Tensor packed = at::zeros({kSummed + world_size}, at::kDouble);
  double* numbers = packed.data_ptr<double>();
  numbers[0] = sums.loss_sum;
  numbers[1] = static_cast<double>(sums.loss_count);
  numbers[2] = sums.scored_loss_sum;
  numbers[3] = static_cast<double>(sums.scored_count);
  numbers[4] = static_cast<double>(sums.correct_count);
  numbers[5] = static_cast<double>(sums.guarded_count);
  numbers[kSummed + rank] = sums.max_hidden_norm;
  return packed;
}

// Of the same, on any device and of any type.
PassSums Unpack(const at::Tensor& packed) {
  const at::Tensor host = packed.to(at::kCPU, at::kDouble);
  const double* numbers = host.const_data_ptr<double>();
  PassSums sums;
  sums.loss_sum = numbers[0];
  sums.loss_count = std::llround(numbers[1]);
  sums.scored_loss_sum = numbers[2];
  sums.scored_count = std::llround(numbers[3]);
  sums.correct_count = std::llround(numbers[4]);
  sums.guarded_count = std::llround(numbers[5]);
  for (int64_t i = kSummed; i < host.numel(); ++i) sums.max_hidden_norm = std::max(sums.max_hidden_norm, numbers[i]);
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
      task_(parts.task),
      engine_(parts.engine),
      parameters_(parts.parameters),
      collective_(&parts.collective),
      observer_(&parts.observer),
      save_points_(parts.engine.SetSavePoints(parts.save_points) ? parts.save_points : nullptr),
      optimizer_(MakeOptimizer(config_.optimizer, parts.parameters.values())) {
  Join();
  if (config_.stop_when) RequireFigure(config_.stop_when->metric, "eval.stop_when");
  if (!config_.curriculum.lengths.empty())
    RequireFigure(config_.curriculum.advance_when.metric, "curriculum.advance_when");
  if (!config_.ranked_by.empty()) RequireFigure(config_.ranked_by, "halving.metric");
}

TrainLoop::TrainLoop(TrainConfig config, Parts parts, TrainLoop& before) : TrainLoop(std::move(config), parts) {
  optimizer_ = std::move(before.optimizer_);
  state_ = before.state_;
  holds_state_ = before.holds_state_;
  agreed_ = before.agreed_;
  leave_agreed_ = before.leave_agreed_;
  checkpointed_ = before.checkpointed_;
}

void TrainLoop::Join() {
  const int world_size = collective_->world_size();
  if (config_.batch_size < world_size) {
    throw std::invalid_argument("train.batch_size: must be at least the number of replicas, " +
                                std::to_string(world_size) + ", got " + std::to_string(config_.batch_size));
  }
  my_rows_ = ShareOf(config_.batch_size, collective_->rank(), world_size);
  if (world_size > 1)
    exchange_ = at::empty({parameters_.count() + kSummed + world_size}, parameters_.values().options());
  if (config_.shards == 0) return;
  if (!std::has_single_bit(static_cast<uint64_t>(config_.shards)) || config_.batch_size % config_.shards != 0 ||
      config_.shards % world_size != 0) {
    throw std::invalid_argument("train.shards: must be a power of two that divides train.batch_size, " +
                                std::to_string(config_.batch_size) + ", and that the number of replicas, " +
                                std::to_string(world_size) + ", divides; got " + std::to_string(config_.shards));
  }
  my_shards_ = ShareOf(config_.shards, collective_->rank(), world_size);
  shard_sum_.emplace(parameters_.count() + kSummed, parameters_.values().options());
}

void TrainLoop::Rejoin(Collective& collective, TrainObserver& observer) {
  collective_ = &collective;
  observer_ = &observer;
  stop_requested_ = false;
  leave_requested_ = false;
  leave_agreed_ = false;
  checkpointed_ = 0;  // whose rank it was may have died before it was written
  Join();
}

void TrainLoop::RequireFigure(const std::string& name, const char* field) const {
  std::string known;
  for (const Figure& figure : task_.Figures(PassSums())) {
    if (figure.name == name) return;
    known += (known.empty() ? "" : ", ") + figure.name;
  }
  throw std::invalid_argument(std::string(field) + ": this task has no figure '" + name + "'; it has " + known);
}

void TrainLoop::Restore(const TrainState& state, const std::vector<NamedTensor>& optimizer_state) {
  optimizer_->Restore(optimizer_state, state.optimizer_steps);
  state_ = state;
  checkpointed_ = state.step;
}

std::string TrainLoop::Run() {
  Agree();
  return Train();
}

std::string TrainLoop::Train(int64_t end) {
  try {
    if (state_.step == 0 && end > 0 && config_.checkpoint_initial) observer_->OnCheckpoint(state_);
    while (true) {
      Settle();
      if (!state_.stop_reason.empty()) return state_.stop_reason;
      if (state_.step >= config_.steps) return "steps";
      if (leave_agreed_) return "leave";
      if (AtRung()) return "rung";
      if (stop_requested_) return "";
      if (state_.step >= end) return kPieceDone;
      observer_->OnStep(Step());
    }
  } catch (const Stopped&) {
    return "";
  } catch (const PassStopped&) {
    return "";
  }
}

// Does what the present step owes. A state from memory owes the checkpoint until the next step: it may not have reached
// the disk when its writer was killed.
void TrainLoop::Settle() {
  const bool last = state_.step >= config_.steps;  // above: fewer steps were asked for when it was there already
  if (!state_.evaluated && (last || Due(state_.step, config_.eval_every))) {
    EvaluateAll();
  } else if (AtRung() && (!state_.evaluated || !state_.figure)) {
    // For the rung alone: neither stop_when nor the curriculum sees it, so that the steps after it are what they would
    // have been without.
    EvaluateLengths();
    state_.saved = false;
  }
  if (last && state_.stop_reason.empty()) state_.stop_reason = "steps";
  if (!state_.evaluated && !state_.stop_reason.empty()) EvaluateFinalLengths();
  state_.evaluated = true;
  if (state_.saved) return;
  if (state_.stop_reason.empty() && !leave_agreed_ && !AtRung() && !Due(state_.step, config_.checkpoint_every)) return;
  observer_->OnActivity(Activity::kCheckpoint);
  TrainState saved = state_;
  saved.saved = true;
  checkpointed_ = state_.step;
  observer_->OnCheckpoint(saved);
}

namespace {

// A state as numbers that travel in one tensor; the text of stop_reason behind them, a byte in each.
std::vector<double> PackState(const TrainState& state) {
  std::vector<double> packed = {static_cast<double>(state.step),
                                static_cast<double>(state.optimizer_steps),
                                static_cast<double>(state.skipped_steps),
                                static_cast<double>(state.nonfinite_in_a_row),
                                static_cast<double>(state.curriculum_stage),
                                state.eval_loss ? 1.0 : 0.0,
                                state.eval_loss.value_or(0),
                                state.evaluated ? 1.0 : 0.0,
                                state.saved ? 1.0 : 0.0,
                                state.figure ? 1.0 : 0.0,
                                state.figure.value_or(0)};
  for (const char byte : state.stop_reason) packed.push_back(static_cast<unsigned char>(byte));
  return packed;
}

TrainState UnpackState(const double* packed, int64_t size) {
  TrainState state;
  state.step = std::llround(packed[0]);
  state.optimizer_steps = std::llround(packed[1]);
  state.skipped_steps = std::llround(packed[2]);
  state.nonfinite_in_a_row = std::llround(packed[3]);
  state.curriculum_stage = std::llround(packed[4]);
  if (packed[5] != 0) state.eval_loss = packed[6];
  state.evaluated = packed[7] != 0;
  state.saved = packed[8] != 0;
  if (packed[9] != 0) state.figure = packed[10];
  for (int64_t i = 11; i < size; ++i) state.stop_reason += static_cast<char>(packed[i]);
  return state;
}

}  // namespace

// Initial values come from the same numbers everywhere, checkpoints are the same file: the broadcast of the parameters
// makes it certain, and connects the ranks before the first step is timed. Ranks that differ, or have nothing, get all
// of the state of the rank that is furthest; a rank was perhaps interrupted between the sum of the gradients and the
// update, or between an evaluation and what follows from it.
void TrainLoop::Agree() {
  const int world_size = collective_->world_size();
  const double mine = holds_state_ ? 2.0 * static_cast<double>(state_.step) + (state_.evaluated ? 1 : 0) : -1;
  int root = 0;
  bool same = true;
  if (world_size > 1) {
    at::Tensor host = at::zeros({world_size}, at::kDouble);
    host.data_ptr<double>()[collective_->rank()] = mine;
    at::Tensor shared = host.to(parameters_.values().device());
    collective_->AllReduceSum(shared);
    host.copy_(shared);
    const double* progress = host.data_ptr<double>();
    root = static_cast<int>(std::max_element(progress, progress + world_size) - progress);
    same = std::all_of(progress, progress + world_size, [&](double other) { return other == progress[root]; });
    if (progress[root] < 0) throw StateLostError("no rank holds the job's state any more");
    // From here on what is behind is written over; should the group break in the middle, it is nothing any more.
    if (mine < progress[root]) holds_state_ = false;
    optimizer_->Thaw(parameters_.values());
    collective_->Broadcast(parameters_.values(), root);
    if (!same) TakeStateFrom(root);
  } else if (mine < 0) {
    throw StateLostError("this rank does not hold the job's state");
  }
  holds_state_ = agreed_ = true;
  observer_->OnAgreed(state_, root);
}

void TrainLoop::TakeStateFrom(int root) {
  const at::Device device = parameters_.values().device();
  const bool giver = collective_->rank() == root;
  const std::vector<double> packed = PackState(state_);
  at::Tensor size = at::full({1}, static_cast<double>(packed.size()), at::kDouble).to(device);
  collective_->Broadcast(size, root);
  at::Tensor host = at::zeros({std::llround(size.item<double>())}, at::kDouble);
  if (giver) std::copy(packed.begin(), packed.end(), host.data_ptr<double>());
  at::Tensor shared = host.to(device);
  collective_->Broadcast(shared, root);
  host.copy_(shared);
  std::vector<NamedTensor> optimizer = optimizer_->State();
  for (NamedTensor& named : optimizer) collective_->Broadcast(named.tensor, root);
  if (giver) return;
  state_ = UnpackState(host.data_ptr<double>(), host.numel());
  checkpointed_ = 0;
  optimizer_->Restore(optimizer, state_.optimizer_steps);
}

int64_t TrainLoop::TrainingLength() const {
  if (config_.curriculum.lengths.empty()) return task_.length();
  return config_.curriculum.lengths.at(static_cast<size_t>(state_.curriculum_stage));
}

int64_t TrainLoop::LengthOf(int64_t step) const {
  const int64_t present = TrainingLength();
  if (!config_.curriculum.vary || config_.curriculum.lengths.empty()) return present;
  const int64_t shortest = config_.curriculum.lengths.front();
  Random random(config_.curriculum.seed ^ kLengthSalt, static_cast<uint64_t>(step));
  return shortest + static_cast<int64_t>(random.Below(static_cast<uint64_t>(present - shortest + 1)));
}

Batch TrainLoop::OnDevice(Batch batch) const {
  return model::OnDevice(std::move(batch), parameters_.values());
}

void TrainLoop::AllReduce(at::Tensor& tensor, Activity then) {
  observer_->OnActivity(Activity::kCollective);
  if (config_.shards > 0) {
    collective_->AllReduceSumInPairs(tensor);
  } else {
    collective_->AllReduceSum(tensor);
  }
  observer_->OnActivity(then);
}

PassSums TrainLoop::PassOverRows(const StepReport& at, double loss_scale, int64_t* steps) {
  const Batch batch = OnDevice(task_.TrainingBatch(at.step, at.length, my_rows_));
  *steps = batch.steps();
  parameters_.gradients().zero_();
  if (save_points_ != nullptr) save_points_->BeginPart(my_rows_.first);
  return engine_.ForwardBackward(batch, loss_scale);
}

// The engine sees each shard by itself: what a shard gives depends on its own rows alone. Figures go through the same
// tree and in the same number format as the gradients, whether they have to leave this rank or not.
PassSums TrainLoop::PassOverShards(const StepReport& at, double loss_scale, int64_t* steps) {
  at::Tensor& gradients = parameters_.gradients();
  const int64_t n = gradients.numel();
  double norm = 0;
  for (int64_t shard = my_shards_.first; shard < my_shards_.first + my_shards_.count; ++shard) {
    const RowRange rows = ShareOf(config_.batch_size, static_cast<int>(shard), static_cast<int>(config_.shards));
    const Batch batch = OnDevice(task_.TrainingBatch(at.step, at.length, rows));
    *steps = batch.steps();
    gradients.zero_();
    if (save_points_ != nullptr) save_points_->BeginPart(rows.first);
    const PassSums sums = engine_.ForwardBackward(batch, loss_scale);
    at::Tensor& part = shard_sum_->Next();
    part.narrow(0, 0, n).copy_(gradients);
    part.narrow(0, n, kSummed).copy_(Pack(sums, 0, 1).narrow(0, 0, kSummed));
    shard_sum_->Add();
    norm = std::max(norm, sums.max_hidden_norm);
  }
  const at::Tensor& sum = shard_sum_->Take();
  gradients.copy_(sum.narrow(0, 0, n));
  return Unpack(at::cat({sum.narrow(0, n, kSummed), at::full({1}, norm, sum.options())}));
}

void TrainLoop::BeginUpdate(int64_t step) {
  if (save_points_ == nullptr) return;
  save_points_->BeginUpdate({step, &stop_requested_, [this] {
                               if (checkpointed_ == state_.step) return;
                               TrainState saved = state_;
                               saved.saved = true;
                               checkpointed_ = state_.step;
                               observer_->OnLongUpdate(saved);
                             }});
}

StepReport TrainLoop::Step() {
  observer_->OnActivity(Activity::kStep);
  StepReport report;
  report.step = state_.step + 1;
  BeginUpdate(report.step);
  report.length = LengthOf(report.step);
  report.rows = config_.batch_size;
  const int64_t loss_count = task_.TrainingLossCount(report.step, report.length, config_.batch_size);
  const double loss_scale = 1.0 / static_cast<double>(loss_count);
  int64_t steps = 0;
  const PassSums sums = ReduceGradients(config_.shards > 0 ? PassOverShards(report, loss_scale, &steps)
                                                           : PassOverRows(report, loss_scale, &steps));
  at::Tensor& gradients = parameters_.gradients();

  report.gradient_norm = GradientNorm(gradients);
  // On a GPU a call that was aborted on its way shows only now that the device has been waited for: what it left is no
  // sum.
  if (gradients.is_cuda() && collective_->world_size() > 1 && stop_requested_) throw Stopped();
  report.learning_rate = config_.learning_rate * config_.schedule.Factor(report.step, config_.steps);
  report.skipped = !std::isfinite(report.gradient_norm);
  state_.step = report.step;
  state_.evaluated = state_.saved = false;
  state_.figure.reset();
  CountNonfinite(report.gradient_norm);
  if (!report.skipped) {
    // As torch.nn.utils.clip_grad_norm_.
    const double scale = config_.clip_norm > 0 ? std::min(1.0, config_.clip_norm / (report.gradient_norm + 1e-6)) : 1.0;
    optimizer_->Step(parameters_.values(), gradients, report.learning_rate, scale);
    state_.optimizer_steps = optimizer_->steps();
  }
  report.figures = task_.Figures(sums);
  report.max_hidden_norm = sums.max_hidden_norm;
  report.guarded_fraction = static_cast<double>(sums.guarded_count) / static_cast<double>(config_.batch_size * steps);
  report.skipped_steps = state_.skipped_steps;
  if (save_points_ != nullptr) save_points_->EndUpdate();
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
  const int world_size = collective_->world_size();
  const bool leave = leave_requested_;
  leave_agreed_ = leave;
  if (world_size == 1) return mine;
  at::Tensor& gradients = parameters_.gradients();
  const int64_t n = gradients.numel();
  at::Tensor packed = Pack(mine, collective_->rank(), world_size);
  packed.data_ptr<double>()[kLeaving] = leave ? 1 : 0;
  at::Tensor tail = exchange_.narrow(0, n, kSummed + world_size);
  at::Tensor head = exchange_.narrow(0, 0, n);
  head.copy_(gradients);
  tail.copy_(packed);
  AllReduce(exchange_, Activity::kStep);
  gradients.copy_(head);
  packed.copy_(tail);
  leave_agreed_ = packed.data_ptr<double>()[kLeaving] > 0;
  return Unpack(packed);
}

PassSums TrainLoop::ReduceSums(const PassSums& mine) {
  const int world_size = collective_->world_size();
  if (world_size == 1) return mine;
  at::Tensor shared = Pack(mine, collective_->rank(), world_size).to(parameters_.values().device());
  AllReduce(shared, Activity::kEvaluation);
  return Unpack(shared);
}

PassSums TrainLoop::EvaluateRows(int64_t length, RowRange rows, int64_t at_once) {
  PassSums sums;
  for (int64_t done = 0; done < rows.count; done += at_once) {
    if (stop_requested_) throw Stopped();
    const RowRange some = {rows.first + done, std::min(at_once, rows.count - done)};
    sums += engine_.Evaluate(OnDevice(task_.EvaluationBatch(length, some)));
  }
  return sums;
}

PassSums TrainLoop::EvaluateShards(int64_t length, int64_t rows) {
  ShardSum tree(kSummed, at::kDouble);
  double norm = 0;
  for (int64_t shard = my_shards_.first; shard < my_shards_.first + my_shards_.count; ++shard) {
    const RowRange mine = ShareOf(rows, static_cast<int>(shard), static_cast<int>(config_.shards));
    const PassSums sums = EvaluateRows(length, mine, config_.batch_size / config_.shards);
    tree.Next().copy_(Pack(sums, 0, 1).narrow(0, 0, kSummed));
    tree.Add();
    norm = std::max(norm, sums.max_hidden_norm);
  }
  PassSums sums = Unpack(tree.Take());
  sums.max_hidden_norm = norm;
  return sums;
}

EvalReport TrainLoop::EvaluateAt(int64_t length, int64_t sequences) {
  const int64_t rows = task_.EvaluationRows(sequences);
  observer_->OnActivity(Activity::kEvaluation);
  const PassSums sums = ReduceSums(
      config_.shards > 0
          ? EvaluateShards(length, rows)
          : EvaluateRows(length, ShareOf(rows, collective_->rank(), collective_->world_size()), my_rows_.count));
  EvalReport report = {state_.step, length, task_.Figures(sums), sums.max_hidden_norm};
  observer_->OnEval(report);
  return report;
}

std::vector<EvalReport> TrainLoop::EvaluateLengths() {
  std::vector<int64_t> lengths = config_.eval_lengths;
  if (lengths.empty() || task_.length() == 0) lengths = {task_.length()};
  std::vector<EvalReport> reports;
  for (const int64_t length : lengths) reports.push_back(EvaluateAt(length, config_.eval_sequences));
  const std::vector<Figure>& first = reports.front().figures;
  state_.eval_loss = ValueOf(first, "loss");
  if (!config_.ranked_by.empty()) state_.figure = ValueOf(first, config_.ranked_by);
  return reports;
}

void TrainLoop::EvaluateAll() {
  std::vector<EvalReport> reports = EvaluateLengths();
  const std::vector<Figure>& first = reports.front().figures;
  if (config_.stop_when && config_.stop_when->Holds(ValueOf(first, config_.stop_when->metric))) {
    state_.stop_reason = "stop_when: " + config_.stop_when->Text() + " at step " + std::to_string(state_.step);
  }
  if (state_.curriculum_stage + 1 >= static_cast<int64_t>(config_.curriculum.lengths.size())) return;
  const int64_t present = TrainingLength();
  const auto at_present =
      std::find_if(reports.begin(), reports.end(), [&](const EvalReport& report) { return report.length == present; });
  AdvanceCurriculum(at_present != reports.end() ? *at_present : EvaluateAt(present, config_.eval_sequences));
}

void TrainLoop::EvaluateFinalLengths() {
  for (const int64_t length : config_.final_lengths) EvaluateAt(length, config_.final_sequences);
}

void TrainLoop::AdvanceCurriculum(const EvalReport& at_training_length) {
  const Condition& condition = config_.curriculum.advance_when;
  if (condition.Holds(ValueOf(at_training_length.figures, condition.metric))) ++state_.curriculum_stage;
}

}  // namespace sab::model
