#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/train/optimizer.h"
#include "model/train/schedule.h"

namespace sab::model {

// METRIC OP NUMBER, parsed: "accuracy >= 0.999". `metric` is a name of Task::Figures.
struct Condition {
  enum class Op { kAtLeast, kAtMost, kAbove, kBelow };
  std::string metric;
  Op op = Op::kAtLeast;
  double value = 0;

  bool Holds(double measured) const;  // false for NaN
  std::string Text() const;           // as written above
};

// Trains at growing lengths: goes on to the next one when the condition holds at the present one.
struct Curriculum {
  std::vector<int64_t> lengths;  // increasing; empty: no curriculum
  Condition advance_when;
  bool vary = false;  // each update trains at a length drawn evenly from the first to the present one
  uint64_t seed = 0;  // of these draws
};

// The job file's `train:`, `eval:`, `checkpoint:` and `curriculum:`.
struct TrainConfig {
  int64_t batch_size = 64;  // global rows
  int64_t steps = 1;
  double learning_rate = 1e-3;
  OptimizerOptions optimizer;
  Schedule schedule;
  double clip_norm = 0;  // 0: none
  int64_t max_nonfinite_steps = 10;
  // 0: every rank passes its rows through the engine at once. Else the same bits for any number of ranks that divides
  // it: a power of two that divides batch_size, see ShardSum.
  int64_t shards = 0;

  int64_t eval_every = 200;           // 0: only at the end
  std::vector<int64_t> eval_lengths;  // empty: the task's own
  int64_t eval_sequences = 512;
  std::vector<int64_t> final_lengths;  // evaluated as well when training has ended
  int64_t final_sequences = 512;
  std::optional<Condition> stop_when;  // at the first of eval_lengths

  int64_t checkpoint_every = 500;  // 0: only at the end
  bool checkpoint_initial = false;

  Curriculum curriculum;

  // Training ends when this step is done, which is evaluated and saved first; 0: it does not. Below `steps`.
  int64_t rung = 0;
  std::string ranked_by;  // figure that TrainState::figure is; empty: none
};

}  // namespace sab::model
