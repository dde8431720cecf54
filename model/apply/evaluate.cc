#include "model/apply/evaluate.h"

#include <algorithm>

#include "model/train/on_device.h"

namespace sab::model {

bool Evaluate(const EvaluationWork& work, const Task& task, Engine& engine, const ParameterSet& parameters,
              const WorkProgress& progress, const std::function<void(const EvalReport&)>& report) {
  std::vector<int64_t> lengths = work.lengths;
  if (lengths.empty() || task.length() == 0) lengths = {task.length()};
  const int64_t rows = task.EvaluationRows(work.sequences);
  const int64_t total = rows * static_cast<int64_t>(lengths.size());
  int64_t finished = 0;
  for (const int64_t length : lengths) {
    PassSums sums;
    for (int64_t done = 0; done < rows; done += work.batch_size) {
      const RowRange range = {done, std::min(work.batch_size, rows - done)};
      sums += engine.Evaluate(OnDevice(task.EvaluationBatch(length, range), parameters.values()));
      finished += range.count;
      if (!progress(finished, total)) return false;
    }
    report({work.step, length, task.Figures(sums), sums.max_hidden_norm});
  }
  return true;
}

}  // namespace sab::model
