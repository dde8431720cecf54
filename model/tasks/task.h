#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/batch.h"
#include "model/config.h"

namespace sab::model {

// Rows [first, first + count) of a global batch or of the evaluation set.
struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
};

// The contiguous share of `rows` that `rank` takes; shares differ by at most one row and may be empty.
RowRange ShareOf(int64_t rows, int rank, int world_size);

// A measured figure by name: loss, accuracy, ce10, bits, mse.
struct Figure {
  std::string name;
  double value = 0;
};

// What is learned: data and figures. Data are a pure function of the seed and the arguments, so they do not depend on
// the number of ranks, and training goes on after a restart where it was. Batches are on the CPU. Const, and safe for
// several threads.
class Task {
 public:
  virtual ~Task() = default;

  virtual TaskShape shape() const = 0;
  // Sequence length of the task's setting; 0 for tasks whose data fix it. Where it is 0, `length` below is not looked
  // at.
  virtual int64_t length() const { return 0; }

  // Rows of the global batch of `step` (from 1).
  virtual Batch TrainingBatch(int64_t step, int64_t length, RowRange rows) const = 0;
  // What PassSums::loss_count of the whole global batch of `batch_size` rows is.
  virtual int64_t TrainingLossCount(int64_t step, int64_t length, int64_t batch_size) const = 0;

  // How many of `wanted` evaluation rows there are.
  virtual int64_t EvaluationRows(int64_t wanted) const { return wanted; }
  // Rows that training never sees; `rows` lies below EvaluationRows.
  virtual Batch EvaluationBatch(int64_t length, RowRange rows) const = 0;

  // Figures of what passes added up to; "loss" is the first. NaN where nothing was counted.
  virtual std::vector<Figure> Figures(const PassSums& sums) const = 0;

  // Symbols by index, for tasks over bytes; kept in checkpoints and handed back in TaskConfig.
  virtual std::string vocabulary() const { return ""; }
};

enum class TaskKind { kCopy, kAdding, kRecall, kText, kImage, kTensor };

// An array of the user's, by reference; row-major, little-endian.
struct ArrayView {
  std::string dtype;  // "F32", "I64", as safetensors writes them
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
};

// The arrays of one file of task `tensor`.
struct TensorData {
  std::string path;  // for messages
  std::optional<ArrayView> inputs, targets, lengths;
  std::shared_ptr<const void> owner;  // keeps what the views point to
};

// The job file's `task:` and the parts of `train:` and `eval:` that decide about data; see sab.v1.TaskSpec for the
// meaning.
struct TaskConfig {
  TaskKind kind = TaskKind::kCopy;
  uint64_t seed = 1;
  int64_t batch_size = 64;  // global: image and tensor count their epochs with it
  int64_t length = 0;
  bool one_hot = false;
  std::string path;
  std::string valid_path;
  int64_t window = 100;
  std::string labels_path;
  std::optional<uint64_t> permute_seed;
  std::string eval_path;
  std::string eval_labels_path;
  std::string vocabulary;  // of the checkpoint that training goes on from; empty: taken from the files
  TensorData tensors;
  std::optional<TensorData> eval_tensors;
};

// Opens the data. Throws std::invalid_argument: a setting or a file that cannot be used, named with the place and the
// reason.
std::unique_ptr<Task> MakeTask(const TaskConfig& config);

}  // namespace sab::model
