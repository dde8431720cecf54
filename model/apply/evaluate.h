#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "model/engine.h"
#include "model/tasks/task.h"
#include "model/train/train_loop.h"

namespace sab::model {

// Told after each piece of work: how much of it is done, out of how much. False: stop.
using WorkProgress = std::function<bool(int64_t done, int64_t total)>;

// The figures that a training with one rank reports of this network after `step` steps, bit for bit: the same rows, so
// many at a time. Of tasks without a length `lengths` is not looked at. `report` is called after each length. False:
// `progress`, which counts sequences, stopped it.
struct EvaluationWork {
  std::vector<int64_t> lengths;
  int64_t sequences = 512;
  int64_t batch_size = 64;
  int64_t step = 0;  // goes into the reports
};
bool Evaluate(const EvaluationWork& work, const Task& task, Engine& engine, const ParameterSet& parameters,
              const WorkProgress& progress, const std::function<void(const EvalReport&)>& report);

}  // namespace sab::model
