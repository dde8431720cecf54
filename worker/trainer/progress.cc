#include "worker/trainer/progress.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

namespace sab::trainer {
namespace {

constexpr absl::Duration kStepInterval = absl::Milliseconds(100);
constexpr absl::Duration kRateInterval = absl::Seconds(1);

}  // namespace

Progress::Progress(Options options, Reporter& reporter, PulseMeter& pulse, CheckpointWorker* checkpoints)
    : options_(std::move(options)), reporter_(reporter), pulse_(pulse), checkpoints_(checkpoints) {}

void Progress::Attach(const model::ParameterSet& parameters, model::TrainLoop& loop) {
  parameters_ = &parameters;
  loop_ = &loop;
}

void Progress::Add(int64_t step, const char* split, const std::string& name, int64_t length, double value) {
  v1::MetricPoint point;
  point.set_step(step);
  point.set_split(split);
  point.set_name(name);
  point.set_length(length);
  point.set_value(value);
  reporter_.Add(std::move(point));
}

void Progress::OnStep(const model::StepReport& report) {
  const absl::Duration now = options_.clock->Monotonic();
  pulse_.StepDone();
  reporter_.SetStep(report.step, report.skipped_steps - options_.skipped_before);
  if (first_) {
    first_ = false;
    last_rates_ = now;
    last_rates_step_ = report.step;
    last_report_ = now - kStepInterval;
    reporter_.SetPhase(v1::TRAINER_PHASE_TRAINING);
  }
  step_end_ = now;
  held_back_ = report;
  if (now - last_report_ >= kStepInterval) {
    last_report_ = now;
    Flush();
  }
  if (now - last_rates_ >= kRateInterval) ReportRates(report, now);
}

void Progress::Flush() {
  if (held_back_.step == 0) return;
  if (options_.rank == 0) ReportStep(held_back_);
  held_back_.step = 0;
}

void Progress::ReportStep(const model::StepReport& report) {
  for (const model::Figure& figure : report.figures) Add(report.step, "train", figure.name, 0, figure.value);
  if (report.length > 0) Add(report.step, "train", "length", 0, static_cast<double>(report.length));
  Add(report.step, "train", "gradient_norm", 0, report.gradient_norm);
  Add(report.step, "train", "learning_rate", 0, report.learning_rate);
  Add(report.step, "train", "max_hidden_norm", 0, report.max_hidden_norm);
  Add(report.step, "train", "guarded_fraction", 0, report.guarded_fraction);
}

void Progress::ReportRates(const model::StepReport& report, absl::Duration now) {
  const double seconds = absl::ToDoubleSeconds(now - last_rates_ - paused_);
  const auto steps = static_cast<double>(report.step - last_rates_step_);
  last_rates_ = now;
  last_rates_step_ = report.step;
  paused_ = absl::ZeroDuration();
  if (options_.rank != 0 || seconds <= 0 || steps <= 0) return;
  Add(report.step, "system", "seconds_per_step", 0, seconds / steps);
  Add(report.step, "system", "steps_per_second", 0, steps / seconds);
  Add(report.step, "system", "sequences_per_second", 0, steps * static_cast<double>(options_.batch_size) / seconds);
  Add(report.step, "system", "resident_bytes", 0, static_cast<double>(ResidentBytes()));
}

void Progress::OnEval(const model::EvalReport& report) {
  Flush();
  const absl::Duration now = options_.clock->Monotonic();
  paused_ += now - step_end_;
  step_end_ = now;
  if (options_.varying_length) pulse_.ForgetSteps();
  if (options_.rank != 0) return;
  for (const model::Figure& figure : report.figures) Add(report.step, "eval", figure.name, report.length, figure.value);
  Add(report.step, "eval", "max_hidden_norm", report.length, report.max_hidden_norm);
  reporter_.Flush();
}

void Progress::OnCheckpoint(const model::TrainState& state) {
  Flush();
  if (checkpoints_ == nullptr) return;
  checkpoints_->Submit({options_.checkpoint, TakeSnapshot(state, *parameters_, loop_->Freeze()), options_.publish});
  const absl::Duration now = options_.clock->Monotonic();
  paused_ += now - step_end_;
  step_end_ = now;
}

void Progress::OnLongUpdate(const model::TrainState& state) {
  if (checkpoints_ == nullptr) return;
  checkpoints_->Submit({options_.checkpoint, TakeSnapshot(state, *parameters_, loop_->Freeze()), options_.publish});
}

void Progress::OnActivity(model::Activity activity) {
  static constexpr v1::TrainerActivity kActivities[] = {v1::TRAINER_ACTIVITY_STEP, v1::TRAINER_ACTIVITY_COLLECTIVE,
                                                        v1::TRAINER_ACTIVITY_EVALUATION,
                                                        v1::TRAINER_ACTIVITY_CHECKPOINT};
  pulse_.Enter(kActivities[static_cast<size_t>(activity)]);
}

void Progress::OnAgreed(const model::TrainState& state, int source_rank) {
  pulse_.SetHoldsState(true);
  v1::Restoration restored;
  restored.set_step(state.step);
  // What the step still owes is reported again.
  restored.set_replaces_after(state.evaluated ? state.step : state.step - 1);
  if (options_.from_memory) restored.set_source_rank(source_rank);
  reporter_.SetRestored(restored);
}

int64_t ResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  long long total = 0, resident = 0;
  const int read = std::fscanf(file, "%lld %lld", &total, &resident);
  std::fclose(file);
  return read == 2 ? resident * sysconf(_SC_PAGESIZE) : 0;
}

}  // namespace sab::trainer
