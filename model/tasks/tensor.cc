// The user's own arrays.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "model/tasks/internal.h"

namespace sab::model {
namespace {

std::string ShapeText(const ArrayView& array) {
  std::ostringstream text;
  text << array.dtype << " (";
  for (size_t i = 0; i < array.shape.size(); ++i) text << (i == 0 ? "" : ", ") << array.shape[i];
  text << ")";
  return text.str();
}

// safetensors data need not be aligned for their type.
int64_t Int64At(const ArrayView& array, int64_t index) {
  int64_t value;
  std::memcpy(&value, array.data + index * static_cast<int64_t>(sizeof(value)), sizeof(value));
  return value;
}

// The arrays of one file, checked.
class Arrays {
 public:
  // `field` is task.path or eval.path.
  Arrays(const std::string& field, const TensorData& data) : field_(field), data_(data) {
    if (!data.inputs) Refuse("has no array 'inputs'");
    if (!data.targets) Refuse("has no array 'targets'");
    symbols_ = inputs().dtype == "I64" && inputs().shape.size() == 2;
    const bool channels = inputs().dtype == "F32" && inputs().shape.size() == 3;
    if (!symbols_ && !channels) Refuse("inputs must be F32 (N, T, I) or I64 (N, T), got " + ShapeText(inputs()));
    for (const int64_t size : inputs().shape) {
      if (size < 1) Refuse("inputs has no elements: " + ShapeText(inputs()));
    }
    rows_ = inputs().shape[0];
    steps_ = inputs().shape[1];
    CheckLengths();
    SetLoss();
    if (symbols_) largest_symbol_ = LargestOf("inputs", inputs(), true);
    if (loss_ != LossKind::kMseLastStep)
      largest_class_ = LargestOf("targets", targets(), loss_ == LossKind::kCrossEntropyEveryStep);
  }

  const ArrayView& inputs() const { return *data_.inputs; }
  const ArrayView& targets() const { return *data_.targets; }
  bool symbols() const { return symbols_; }
  bool has_lengths() const { return data_.lengths.has_value(); }
  int64_t rows() const { return rows_; }
  int64_t steps() const { return steps_; }
  int64_t channels() const { return symbols_ ? 0 : inputs().shape[2]; }
  LossKind loss() const { return loss_; }
  int64_t outputs() const { return loss_ == LossKind::kMseLastStep ? targets().shape[1] : largest_class_ + 1; }
  int64_t largest_symbol() const { return largest_symbol_; }
  int64_t LengthOf(int64_t row) const { return data_.lengths ? Int64At(*data_.lengths, row) : steps_; }

  [[noreturn]] void Refuse(const std::string& reason) const {
    throw std::invalid_argument(field_ + " '" + data_.path + "': " + reason);
  }

 private:
  void CheckLengths() const {
    if (!data_.lengths) return;
    const ArrayView& lengths = *data_.lengths;
    if (lengths.dtype != "I64" || lengths.shape != std::vector<int64_t>{rows_}) {
      Refuse("lengths must be I64 (" + std::to_string(rows_) + "), got " + ShapeText(lengths));
    }
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t length = LengthOf(row);
      if (length < 1 || length > steps_) {
        Refuse("lengths[" + std::to_string(row) + "] is " + std::to_string(length) + ", must be 1 to " +
               std::to_string(steps_));
      }
    }
  }

  void SetLoss() {
    const ArrayView& t = targets();
    const bool per_row = !t.shape.empty() && t.shape[0] == rows_;
    if (t.dtype == "I64" && per_row && t.shape.size() == 2 && t.shape[1] == steps_) {
      loss_ = LossKind::kCrossEntropyEveryStep;
    } else if (t.dtype == "I64" && per_row && t.shape.size() == 1) {
      loss_ = LossKind::kCrossEntropyLastStep;
    } else if (t.dtype == "F32" && per_row && t.shape.size() == 2 && t.shape[1] > 0) {
      loss_ = LossKind::kMseLastStep;
    } else {
      const std::string n = std::to_string(rows_);
      Refuse("targets must be I64 (" + n + ", " + std::to_string(steps_) + "), I64 (" + n + ") or F32 (" + n +
             ", O), got " + ShapeText(t));
    }
  }

  // The largest of an array of classes or symbols; positions behind a row's length are padding and may hold anything.
  int64_t LargestOf(const std::string& name, const ArrayView& array, bool every_step) const {
    int64_t largest = 0;
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t width = every_step ? steps_ : 1;
      const int64_t used = every_step ? LengthOf(row) : 1;
      for (int64_t t = 0; t < used; ++t) {
        const int64_t value = Int64At(array, row * width + t);
        if (value < 0 || value > kLargest) {
          Refuse(name + "[" + std::to_string(row) + (every_step ? ", " + std::to_string(t) : "") + "] is " +
                 std::to_string(value) + ", must be 0 to " + std::to_string(kLargest));
        }
        largest = std::max(largest, value);
      }
    }
    return largest;
  }

  // A million classes or symbols are a mistake (byte offsets, hashes), and would be answered by running out of memory.
  static constexpr int64_t kLargest = 1'000'000;

  const std::string field_;
  const TensorData data_;
  bool symbols_ = false;
  int64_t rows_ = 0, steps_ = 0;
  LossKind loss_ = LossKind::kCrossEntropyEveryStep;
  int64_t largest_symbol_ = -1, largest_class_ = -1;
};

class TensorTask : public Task {
 public:
  explicit TensorTask(const TaskConfig& config)
      : seed_(config.seed),
        batch_size_(config.batch_size),
        training_(std::make_shared<Arrays>("task.path", config.tensors)) {
    if (config.eval_tensors) {
      held_out_ = std::make_shared<Arrays>("eval.path", *config.eval_tensors);
      CheckHeldOut();
    } else {
      held_out_ = training_;
    }
  }

  TaskShape shape() const override {
    return {.inputs = training_->channels(),
            .vocabulary = training_->symbols() ? training_->largest_symbol() + 1 : 0,
            .outputs = training_->outputs(),
            .loss = training_->loss()};
  }

  Batch TrainingBatch(int64_t step, int64_t, RowRange rows) const override {
    return Read(*training_, rows, [&](int64_t row) { return TrainingRow(step, row); });
  }

  int64_t TrainingLossCount(int64_t step, int64_t, int64_t batch_size) const override {
    if (training_->loss() == LossKind::kCrossEntropyLastStep) return batch_size;
    if (training_->loss() == LossKind::kMseLastStep) return batch_size * training_->outputs();
    if (!training_->has_lengths()) return batch_size * training_->steps();
    int64_t count = 0;
    for (int64_t row = 0; row < batch_size; ++row) count += training_->LengthOf(TrainingRow(step, row));
    return count;
  }

  int64_t EvaluationRows(int64_t wanted) const override { return std::min(wanted, held_out_->rows()); }
  Batch EvaluationBatch(int64_t, RowRange rows) const override {
    return Read(*held_out_, rows, [](int64_t row) { return row; });
  }

  std::vector<Figure> Figures(const PassSums& sums) const override {
    const Figure loss = LossFigure(sums);
    if (training_->loss() == LossKind::kMseLastStep) return {loss, {"mse", loss.value}};
    return {loss, AccuracyFigure(sums)};
  }

 private:
  int64_t TrainingRow(int64_t step, int64_t row) const {
    return ShuffledRow(seed_, (step - 1) * batch_size_ + row, training_->rows());
  }

  // The steps of the hold-out may differ; what the network's shape depends on may not.
  void CheckHeldOut() const {
    const Arrays& mine = *training_;
    const Arrays& other = *held_out_;
    if (other.symbols() != mine.symbols() || other.channels() != mine.channels() || other.loss() != mine.loss()) {
      other.Refuse("inputs " + ShapeText(other.inputs()) + " and targets " + ShapeText(other.targets()) +
                   " do not fit those of task.path, " + ShapeText(mine.inputs()) + " and " + ShapeText(mine.targets()));
    }
    const bool mse = mine.loss() == LossKind::kMseLastStep;
    if (mse ? other.outputs() != mine.outputs() : other.outputs() > mine.outputs()) {
      other.Refuse("targets have " + std::to_string(other.outputs()) + (mse ? " columns" : " classes") +
                   ", those of task.path " + std::to_string(mine.outputs()));
    }
    if (other.largest_symbol() > mine.largest_symbol()) {
      other.Refuse("inputs hold symbol " + std::to_string(other.largest_symbol()) + ", the largest of task.path is " +
                   std::to_string(mine.largest_symbol()));
    }
  }

  template <typename RowOf>
  static Batch Read(const Arrays& arrays, RowRange rows, RowOf row_of) {
    const int64_t steps = arrays.steps();
    const int64_t channels = std::max<int64_t>(1, arrays.channels());
    Batch batch;
    batch.inputs = arrays.symbols() ? at::empty({rows.count, steps}, at::kLong)
                                    : at::empty({rows.count, steps, channels}, at::kFloat);
    const LossKind loss = arrays.loss();
    batch.targets = loss == LossKind::kCrossEntropyEveryStep  ? at::empty({rows.count, steps}, at::kLong)
                    : loss == LossKind::kCrossEntropyLastStep ? at::empty({rows.count}, at::kLong)
                                                              : at::empty({rows.count, arrays.outputs()}, at::kFloat);
    if (arrays.has_lengths()) batch.lengths = at::empty({rows.count}, at::kLong);
    for (int64_t i = 0; i < rows.count; ++i) {
      const int64_t row = row_of(rows.first + i);
      const int64_t length = arrays.LengthOf(row);
      CopyRow(arrays.inputs(), row, batch.inputs, i);
      CopyRow(arrays.targets(), row, batch.targets, i);
      if (arrays.symbols()) ClearPadding(batch.inputs, i, length);
      if (loss == LossKind::kCrossEntropyEveryStep) ClearPadding(batch.targets, i, length);
      if (batch.lengths.defined()) batch.lengths.data_ptr<int64_t>()[i] = length;
    }
    return batch;
  }

  static void CopyRow(const ArrayView& from, int64_t row, at::Tensor& to, int64_t i) {
    const int64_t bytes = to.stride(0) * to.element_size();
    std::memcpy(static_cast<std::byte*>(to.data_ptr()) + i * bytes, from.data + row * bytes,
                static_cast<size_t>(bytes));
  }

  // Padding may hold anything in the file, -1 for example; an index must be in range.
  static void ClearPadding(at::Tensor& tensor, int64_t row, int64_t length) {
    int64_t* first = tensor.data_ptr<int64_t>() + row * tensor.stride(0);
    std::fill(first + length, first + tensor.size(1), 0);
  }

  const uint64_t seed_;
  const int64_t batch_size_;
  std::shared_ptr<const Arrays> training_;
  std::shared_ptr<const Arrays> held_out_;
};

}  // namespace

std::unique_ptr<Task> MakeTensorTask(const TaskConfig& config) {
  return std::make_unique<TensorTask>(config);
}

}  // namespace sab::model
