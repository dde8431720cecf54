#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/collective/collective.h"
#include "model/engine.h"
#include "model/parameters.h"
#include "model/tasks/task.h"
#include "model/train/optimizer.h"
#include "model/train/train_config.h"

namespace sab::model {

// A failure that training again from a checkpoint would run into again.
class PermanentError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Where training is: with the parameters, the optimiser's tensors and the configuration, all that the next step depends
// on. The data's position needs nothing more: data are a function of the step.
struct TrainState {
  int64_t step = 0;             // steps done, skipped ones included
  int64_t optimizer_steps = 0;  // updates done
  int64_t skipped_steps = 0;    // steps without an update for a non-finite gradient
  int64_t nonfinite_in_a_row = 0;
  int64_t curriculum_stage = 0;     // index of its lengths
  std::optional<double> eval_loss;  // last evaluation at the first of eval_lengths
  std::string stop_reason;          // not empty: training has ended, and why
};

// One step as all ranks together did it.
struct StepReport {
  int64_t step = 0;
  int64_t length = 0;  // trained at; 0: the task has none
  std::vector<Figure> figures;
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
  double max_hidden_norm = 0;
  double guarded_fraction = 0;  // of (row, step) pairs
  int64_t rows = 0;             // global
  bool skipped = false;
  int64_t skipped_steps = 0;
};

// An evaluation at one length.
struct EvalReport {
  int64_t step = 0;
  int64_t length = 0;  // 0: the task has none
  std::vector<Figure> figures;
  double max_hidden_norm = 0;
};

// Told what happens, on the training thread: must return soon. Exceptions end the training.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void OnStep(const StepReport& report) = 0;
  virtual void OnEval(const EvalReport& report) = 0;
  // Parameters and optimiser are between two steps; they may be read until this returns. Called on every rank.
  virtual void OnCheckpoint(const TrainState& state) = 0;
};

// Trains one network with the ranks of a Collective. All ranks construct and run it with the same configuration; all of
// them take every decision from all-reduced figures, so alike. Results do not depend on when they are observed, and a
// run that goes on from a checkpoint gives the same bits as one that was not interrupted, with the same ranks and
// machine.
class TrainLoop {
 public:
  // What it works with; all must outlive it.
  struct Parts {
    const Task& task;
    Engine& engine;
    ParameterSet& parameters;
    Collective& collective;
    TrainObserver& observer;
  };
  // Throws std::invalid_argument: fewer rows than ranks, or a condition on a figure that the task does not have.
  TrainLoop(TrainConfig config, Parts parts);

  // Goes on from a checkpoint; the caller has filled in the parameters. Before Run. Throws std::invalid_argument as
  // Optimizer::Restore does.
  void Restore(const TrainState& state, const std::vector<NamedTensor>& optimizer_state);

  // Trains until the steps are done ("steps"), stop_when holds ("stop_when: accuracy >= 0.999 at step 1200"), the ranks
  // leave ("leave", after a checkpoint) or RequestStop (""), and returns that reason. Throws PermanentError after
  // max_nonfinite_steps in a row, CollectiveError, and what engine and observer throw.
  std::string Run();

  // Makes Run return after the present step, without evaluation or checkpoint. This rank alone: the others are asked by
  // other means. Any thread; safe in a signal handler.
  void RequestStop() { stop_requested_ = true; }

  // Makes Run of all ranks return after the same step, with a checkpoint of it, no later than the step after the
  // present one. One rank's request is enough. Any thread.
  void RequestLeave() { leave_requested_ = true; }

  const TrainState& state() const { return state_; }
  const Optimizer& optimizer() const { return *optimizer_; }

 private:
  int64_t TrainingLength() const;
  void SynchroniseParameters();
  StepReport Step();
  PassSums ReduceGradients(const PassSums& mine);
  PassSums ReduceSums(const PassSums& mine);
  Batch OnDevice(Batch batch) const;
  void CountNonfinite(double norm);
  EvalReport EvaluateAt(int64_t length);
  void EvaluateAll();
  void AdvanceCurriculum(const EvalReport& at_training_length);
  void RequireFigure(const Condition& condition, const char* field) const;

  const TrainConfig config_;
  const Parts parts_;
  const RowRange my_rows_;  // of the global batch
  const std::unique_ptr<Optimizer> optimizer_;
  at::Tensor exchange_;  // gradients and sums of one step, for one all-reduce; undefined for one rank
  TrainState state_;
  std::atomic<bool> stop_requested_ = false;
  std::atomic<bool> leave_requested_ = false;
  bool leave_agreed_ = false;  // in the last step, by all ranks alike
};

}  // namespace sab::model
