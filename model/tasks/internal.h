#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "model/random.h"
#include "model/tasks/task.h"

// Shared by the tasks of this folder.
namespace sab::model {

std::unique_ptr<Task> MakeCopyTask(const TaskConfig& config);
std::unique_ptr<Task> MakeAddingTask(const TaskConfig& config);
std::unique_ptr<Task> MakeRecallTask(const TaskConfig& config);
std::unique_ptr<Task> MakeTextTask(const TaskConfig& config);
std::unique_ptr<Task> MakeImageTask(const TaskConfig& config);
std::unique_ptr<Task> MakeTensorTask(const TaskConfig& config);

// Numbers of one row of training (step from 1) and of evaluation: streams of their own.
Random TrainingRandom(uint64_t seed, int64_t step, int64_t row);
Random EvaluationRandom(uint64_t seed, int64_t length, int64_t row);

inline double Ratio(double sum, int64_t count) {
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(count);
}
inline Figure LossFigure(const PassSums& sums) {
  return {"loss", Ratio(sums.loss_sum, sums.loss_count)};
}
inline Figure AccuracyFigure(const PassSums& sums) {
  return {"accuracy", Ratio(static_cast<double>(sums.correct_count), sums.scored_count)};
}

// Which row of `rows` stored ones is the `position`-th that training sees, from 0: every epoch is another permutation
// of them.
int64_t ShuffledRow(uint64_t seed, int64_t position, int64_t rows);

// Rows held out at the end of `rows`: 5 %, at least one. Throws std::invalid_argument naming `path` when nothing is
// left to train on.
int64_t HeldOutRows(int64_t rows, const std::string& path);

}  // namespace sab::model
