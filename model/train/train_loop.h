#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/collective/collective.h"
#include "model/engine.h"
#include "model/parameters.h"
#include "model/save_points.h"
#include "model/tasks/task.h"
#include "model/train/optimizer.h"
#include "model/train/shard_sum.h"
#include "model/train/train_config.h"

namespace sab::model {

// A failure that training again from a checkpoint would run into again.
class PermanentError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// No rank of a run that shall go on from memory has the state.
class StateLostError : public std::runtime_error {
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
  // TrainConfig::ranked_by in the evaluation of this step, at the first of eval_lengths; absent: there was none.
  std::optional<double> figure;
  // What `step` owes: false until the evaluation, or the checkpoint, that is due after it has been done. A state in a
  // checkpoint owes nothing.
  bool evaluated = true;
  bool saved = true;
};

// What the training thread is at.
enum class Activity { kStep, kCollective, kEvaluation, kCheckpoint };

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
  // The update after `state` takes so long that it is about to be saved in the middle, which is of use only where
  // `state` is: it ought to be in a checkpoint, and this rank has written none of it. As OnCheckpoint, but perhaps on
  // a thread of the engine, for which the training thread waits.
  virtual void OnLongUpdate(const TrainState& /*state*/) {}
  // From now on, until the next call. A step and an evaluation are left for each collective call and come back after
  // it.
  virtual void OnActivity(Activity) {}
  // All ranks are at `state`, whose parameters and optimiser came from `source_rank` if any rank had to be given them.
  virtual void OnAgreed(const TrainState&, int /*source_rank*/) {}
};

// Trains one network with the ranks of a Collective. All ranks construct and run it with the same configuration; all of
// them take every decision from all-reduced figures, so alike. Results do not depend on when they are observed, and a
// run that goes on from a checkpoint gives the same bits as one that was not interrupted, with the same ranks and
// machine; with TrainConfig::shards also with other numbers of ranks and threads.
class TrainLoop {
 public:
  // What it works with; all must outlive it.
  struct Parts {
    const Task& task;
    Engine& engine;
    ParameterSet& parameters;
    Collective& collective;
    TrainObserver& observer;
    SavePoints* save_points = nullptr;  // for updates that take long, if the engine can; null: none
  };
  // Throws std::invalid_argument: fewer rows than ranks, shards that the batch or the ranks do not divide into, or a
  // condition on a figure that the task does not have.
  TrainLoop(TrainConfig config, Parts parts);

  // Goes on for `before` with other settings, task or engine: takes its state, its optimiser and what it has agreed
  // with its peers. The parameters, the optimiser's kind and the batch size are the same. `before` is of no use any
  // more. Throws as above; `before` is as it was then.
  TrainLoop(TrainConfig config, Parts parts, TrainLoop& before);

  // Goes on from a checkpoint; the caller has filled in the parameters. Before Run. Throws std::invalid_argument as
  // Optimizer::Restore does.
  void Restore(const TrainState& state, const std::vector<NamedTensor>& optimizer_state);

  // Before Run, on a rank that has neither a checkpoint nor a memory of the job: it takes what a peer has.
  void TakeStateFromPeers() { holds_state_ = false; }

  // After Run has returned "" or thrown CollectiveError: makes the loop go on with another group, perhaps of another
  // size, and tell another observer. Nothing is forgotten; Run goes on from the newest state among the ranks.
  void Rejoin(Collective& collective, TrainObserver& observer);

  // This rank has a state that all ranks had agreed on, or has trained on from one.
  bool holds_state() const { return agreed_ && holds_state_; }

  // Trains until the steps are done ("steps"), stop_when holds ("stop_when: accuracy >= 0.999 at step 1200"), the ranks
  // leave ("leave", after a checkpoint), the rung is reached ("rung", after an evaluation and a checkpoint) or
  // RequestStop (""), and returns that reason. First the ranks agree: the newest
  // state among them is given to all. Equal steps are equal bits: every rank applies the same sum of gradients. Throws
  // PermanentError after max_nonfinite_steps in a row, StateLostError, CollectiveError, and what engine and observer
  // throw.
  std::string Run();

  // The two halves of Run, for a training whose settings change at known steps: agree once, then train up to each such
  // step, whose evaluation and checkpoint belong to the settings of before. Train returns kPieceDone when it has got to
  // `end`.
  static constexpr char kPieceDone[] = "piece done";
  static constexpr int64_t kNoEnd = std::numeric_limits<int64_t>::max();
  void Agree();
  std::string Train(int64_t end = kNoEnd);

  // Makes Run return after the present step, without evaluation or checkpoint; with save points soon, in the middle of
  // the step, which goes on there later. This rank alone: the others are asked by other means. Any thread; safe in a
  // signal handler.
  // Rejoin takes it back.
  void RequestStop() { stop_requested_ = true; }

  // Makes Run of all ranks return after the same step, with a checkpoint of it, no later than the step after the
  // present one. One rank's request is enough. Any thread. Rejoin takes it back.
  void RequestLeave() { leave_requested_ = true; }

  const TrainState& state() const { return state_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  // Parameters and optimiser as they are, to read at leisure. Between two steps: in OnCheckpoint. See
  // Optimizer::Freeze.
  void ReserveForFreeze() { optimizer_->Reserve(parameters_.values()); }
  FrozenState Freeze() { return optimizer_->Freeze(parameters_.values()); }

 private:
  // The present length of the curriculum, or the task's.
  int64_t TrainingLength() const;
  // What the update `step` trains at; a function of the stage, the seed and the step.
  int64_t LengthOf(int64_t step) const;
  void Join();
  void TakeStateFrom(int root);
  void Settle();
  bool AtRung() const { return config_.rung > 0 && state_.step == config_.rung; }
  void AllReduce(at::Tensor& tensor, Activity then);
  void BeginUpdate(int64_t step);
  StepReport Step();
  // Forward and backward over this rank's rows. `steps` is set to the sequences' length.
  PassSums PassOverRows(const StepReport& at, double loss_scale, int64_t* steps);
  PassSums PassOverShards(const StepReport& at, double loss_scale, int64_t* steps);
  PassSums ReduceGradients(const PassSums& mine);
  PassSums ReduceSums(const PassSums& mine);
  Batch OnDevice(Batch batch) const;
  void CountNonfinite(double norm);
  PassSums EvaluateRows(int64_t length, RowRange rows, int64_t at_once);
  PassSums EvaluateShards(int64_t length, int64_t rows);
  EvalReport EvaluateAt(int64_t length, int64_t sequences);
  // At each of eval_lengths, and nothing follows from it.
  std::vector<EvalReport> EvaluateLengths();
  void EvaluateAll();
  void EvaluateFinalLengths();
  void AdvanceCurriculum(const EvalReport& at_training_length);
  void RequireFigure(const std::string& name, const char* field) const;

  const TrainConfig config_;
  const Task& task_;
  Engine& engine_;
  ParameterSet& parameters_;
  Collective* collective_;
  TrainObserver* observer_;
  SavePoints* const save_points_;  // null: none
  RowRange my_rows_;               // of the global batch
  RowRange my_shards_;             // of config_.shards
  std::unique_ptr<Optimizer> optimizer_;
  at::Tensor exchange_;                // gradients and sums of one step, for one all-reduce; undefined for one rank
  std::optional<ShardSum> shard_sum_;  // of the same without the norms; with shards alone
  TrainState state_;
  int64_t checkpointed_ = 0;  // the last step that this rank has given to a checkpoint, or came from one; 0 needs none
  bool holds_state_ = true;
  bool agreed_ = false;
  std::atomic<bool> stop_requested_ = false;
  std::atomic<bool> leave_requested_ = false;
  bool leave_agreed_ = false;  // in the last step, by all ranks alike
};

}  // namespace sab::model
