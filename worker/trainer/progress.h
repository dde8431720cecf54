#pragma once

#include <functional>

#include "common/base/clock.h"
#include "model/train/train_loop.h"
#include "worker/trainer/checkpointing.h"
#include "worker/trainer/pulse.h"
#include "worker/trainer/reporter.h"

namespace sab::trainer {

// Turns what the training loop does into figures and checkpoints. Rank 0 reports and saves, the others only say how far
// they are and what they are at. Figures of training leave at most ten times a second: always those of the first step,
// of the last, and of steps that are evaluated or saved.
class Progress : public model::TrainObserver {
 public:
  struct Options {
    int rank = 0;
    bool from_memory = false;
    int64_t batch_size = 1;
    int64_t skipped_before = 0;    // steps skipped by earlier attempts
    bool varying_length = false;   // evaluations may change the length of the steps that follow
    CheckpointContext checkpoint;  // rank 0: what goes into them
    std::function<absl::Status(const v1::Checkpoint&)> publish;  // rank 0: told of each
    const Clock* clock = &SystemClock();
  };
  // `checkpoints` may be null (not rank 0). What is referred to outlives this.
  Progress(Options options, Reporter& reporter, PulseMeter& pulse, CheckpointWorker* checkpoints);

  // Before Run: what a snapshot is taken from.
  // Settings that checkpoints from now on are said to be trained with.
  void SetSpec(const v1::JobSpec& spec) { options_.checkpoint.spec = spec; }
  void Attach(const model::ParameterSet& parameters, model::TrainLoop& loop);

  void OnStep(const model::StepReport& report) override;
  void OnEval(const model::EvalReport& report) override;
  void OnCheckpoint(const model::TrainState& state) override;
  void OnLongUpdate(const model::TrainState& state) override;
  void OnActivity(model::Activity activity) override;
  void OnAgreed(const model::TrainState& state, int source_rank) override;
  // The figures of the last step, if they were held back.
  void Flush();

 private:
  void ReportStep(const model::StepReport& report);
  void ReportRates(const model::StepReport& report, absl::Duration now);
  void Add(int64_t step, const char* split, const std::string& name, int64_t length, double value);

  Options options_;
  Reporter& reporter_;
  PulseMeter& pulse_;
  CheckpointWorker* const checkpoints_;
  const model::ParameterSet* parameters_ = nullptr;
  model::TrainLoop* loop_ = nullptr;
  bool first_ = true;
  model::StepReport held_back_;  // step 0: none
  absl::Duration last_report_;
  absl::Duration last_rates_;
  int64_t last_rates_step_ = 0;
  absl::Duration paused_;  // spent in evaluations and checkpoints since then
  absl::Duration step_end_;
};

// Bytes of memory that this process occupies; 0 where it is not known.
int64_t ResidentBytes();

}  // namespace sab::trainer
