// Tasks whose data are drawn: copy, adding, recall.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <functional>
#include <stdexcept>

#include "model/tasks/internal.h"

namespace sab::model {
namespace {

// A task of a given length whose row r of a batch is drawn from that row's own random numbers.
class SyntheticTask : public Task {
 public:
  SyntheticTask(const TaskConfig& config, int64_t shortest)
      : seed_(config.seed), length_(config.length), shortest_(shortest) {
    CheckLength(config.length);
  }

  int64_t length() const override { return length_; }

  Batch TrainingBatch(int64_t step, int64_t length, RowRange rows) const override {
    return Fill(length, rows, [&](int64_t row) { return TrainingRandom(seed_, step, row); });
  }
  Batch EvaluationBatch(int64_t length, RowRange rows) const override {
    return Fill(length, rows, [&](int64_t row) { return EvaluationRandom(seed_, length, row); });
  }

 protected:
  // Tensors of a batch, inputs zero.
  virtual Batch Allocate(int64_t length, int64_t rows) const = 0;
  // Draws row `row` of `batch`.
  virtual void FillRow(Batch& batch, int64_t length, int64_t row, Random& random) const = 0;

 private:
  void CheckLength(int64_t length) const {
    if (length >= shortest_) return;
    throw std::invalid_argument("task.length: must be at least " + std::to_string(shortest_) + ", got " +
                                std::to_string(length));
  }

  Batch Fill(int64_t length, RowRange rows, const std::function<Random(int64_t)>& random_of) const {
    CheckLength(length);
    Batch batch = Allocate(length, rows.count);
    for (int64_t i = 0; i < rows.count; ++i) {
      Random random = random_of(rows.first + i);
      FillRow(batch, length, i, random);
    }
    return batch;
  }

  const uint64_t seed_;
  const int64_t length_;
  const int64_t shortest_;
};

// 10 symbols of 1..8, length-1 blanks, the marker, 10 blanks; the target is blank until the marker, then the symbols.
class CopyTask : public SyntheticTask {
 public:
  explicit CopyTask(const TaskConfig& config) : SyntheticTask(config, 1), one_hot_(config.one_hot) {}

  TaskShape shape() const override {
    return {.inputs = one_hot_ ? kClasses : 1,
            .vocabulary = 0,
            .outputs = kClasses,
            .loss = LossKind::kCrossEntropyEveryStep};
  }
  int64_t TrainingLossCount(int64_t, int64_t length, int64_t batch_size) const override {
    return batch_size * Steps(length);
  }
  std::vector<Figure> Figures(const PassSums& sums) const override {
    return {LossFigure(sums), AccuracyFigure(sums), {"ce10", Ratio(sums.scored_loss_sum, sums.scored_count)}};
  }

 private:
  static constexpr int64_t kSymbols = 10;
  static constexpr int64_t kClasses = 10;
  static constexpr int64_t kMarker = 9;
  static int64_t Steps(int64_t length) { return length + 2 * kSymbols; }

  Batch Allocate(int64_t length, int64_t rows) const override {
    const int64_t steps = Steps(length);
    Batch batch;
    batch.inputs = at::zeros({rows, steps, one_hot_ ? kClasses : 1}, at::kFloat);
    batch.targets = at::zeros({rows, steps}, at::kLong);
    batch.metric_from = steps - kSymbols;
    return batch;
  }

  void FillRow(Batch& batch, int64_t length, int64_t row, Random& random) const override {
    const int64_t steps = Steps(length);
    const int64_t channels = one_hot_ ? kClasses : 1;
    float* input = batch.inputs.data_ptr<float>() + row * steps * channels;
    int64_t* target = batch.targets.data_ptr<int64_t>() + row * steps;
    if (one_hot_) {
      for (int64_t t = 0; t < steps; ++t) input[t * channels] = 1;  // blank
    }
    auto put = [&](int64_t t, int64_t symbol) {
      if (!one_hot_) {
        input[t] = static_cast<float>(symbol);
        return;
      }
      input[t * channels] = 0;
      input[t * channels + symbol] = 1;
    };
    for (int64_t i = 0; i < kSymbols; ++i) {
      const int64_t symbol = 1 + static_cast<int64_t>(random.Below(8));
      put(i, symbol);
      target[steps - kSymbols + i] = symbol;
    }
    put(length + kSymbols - 1, kMarker);
  }

  const bool one_hot_;
};

// Numbers of [0, 1) beside a channel that marks one in each half; the target is the mean of the two marked.
class AddingTask : public SyntheticTask {
 public:
  explicit AddingTask(const TaskConfig& config) : SyntheticTask(config, 2) {}

  TaskShape shape() const override {
    return {.inputs = 2, .vocabulary = 0, .outputs = 1, .loss = LossKind::kMseLastStep};
  }
  int64_t TrainingLossCount(int64_t, int64_t, int64_t batch_size) const override { return batch_size; }
  std::vector<Figure> Figures(const PassSums& sums) const override {
    return {LossFigure(sums), {"mse", Ratio(sums.loss_sum, sums.loss_count)}};
  }

 private:
  Batch Allocate(int64_t length, int64_t rows) const override {
    Batch batch;
    batch.inputs = at::zeros({rows, length, 2}, at::kFloat);
    batch.targets = at::empty({rows, 1}, at::kFloat);
    batch.metric_from = length - 1;
    return batch;
  }

  void FillRow(Batch& batch, int64_t length, int64_t row, Random& random) const override {
    float* input = batch.inputs.data_ptr<float>() + row * length * 2;
    for (int64_t t = 0; t < length; ++t) input[2 * t] = random.UniformFloat();
    const int64_t half = length / 2;
    const int64_t first = static_cast<int64_t>(random.Below(static_cast<uint64_t>(half)));
    const int64_t second = half + static_cast<int64_t>(random.Below(static_cast<uint64_t>(length - half)));
    input[2 * first + 1] = 1;
    input[2 * second + 1] = 1;
    batch.targets.data_ptr<float>()[row] = (input[2 * first] + input[2 * second]) / 2;
  }
};

// A symbol of 1..8, distractors of 9..16, the query 17: which symbol was it? One-hot.
class RecallTask : public SyntheticTask {
 public:
  explicit RecallTask(const TaskConfig& config) : SyntheticTask(config, 2) {}

  TaskShape shape() const override {
    return {.inputs = kChannels, .vocabulary = 0, .outputs = 8, .loss = LossKind::kCrossEntropyLastStep};
  }
  int64_t TrainingLossCount(int64_t, int64_t, int64_t batch_size) const override { return batch_size; }
  std::vector<Figure> Figures(const PassSums& sums) const override { return {LossFigure(sums), AccuracyFigure(sums)}; }

 private:
  static constexpr int64_t kChannels = 17;

  Batch Allocate(int64_t length, int64_t rows) const override {
    Batch batch;
    batch.inputs = at::zeros({rows, length, kChannels}, at::kFloat);
    batch.targets = at::empty({rows}, at::kLong);
    batch.metric_from = length - 1;
    return batch;
  }

  void FillRow(Batch& batch, int64_t length, int64_t row, Random& random) const override {
    float* input = batch.inputs.data_ptr<float>() + row * length * kChannels;
    const int64_t symbol = static_cast<int64_t>(random.Below(8));
    input[symbol] = 1;
    for (int64_t t = 1; t + 1 < length; ++t) input[t * kChannels + 8 + static_cast<int64_t>(random.Below(8))] = 1;
    input[(length - 1) * kChannels + kChannels - 1] = 1;
    batch.targets.data_ptr<int64_t>()[row] = symbol;
  }
};

}  // namespace

std::unique_ptr<Task> MakeCopyTask(const TaskConfig& config) {
  return std::make_unique<CopyTask>(config);
}
std::unique_ptr<Task> MakeAddingTask(const TaskConfig& config) {
  return std::make_unique<AddingTask>(config);
}
std::unique_ptr<Task> MakeRecallTask(const TaskConfig& config) {
  return std::make_unique<RecallTask>(config);
}

}  // namespace sab::model
