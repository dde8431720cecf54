// Next byte of a text file.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include "model/tasks/data_file.h"
#include "model/tasks/internal.h"

namespace sab::model {
namespace {

// Training text and held-out text: [begin, end) of a file.
struct Span {
  std::shared_ptr<const DataFile> file;
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  const uint8_t* data() const { return file->data() + begin; }
};

class TextTask : public Task {
 public:
  explicit TextTask(const TaskConfig& config) : seed_(config.seed), window_(config.window) {
    if (window_ < 1) throw std::invalid_argument("task.window: must be at least 1, got " + std::to_string(window_));
    const auto file = DataFile::Open("task.path", config.path);
    if (config.valid_path.empty()) {
      const int64_t held_out = std::max(file->size() / 20, window_ + 1);
      training_ = {file, 0, std::max<int64_t>(0, file->size() - held_out)};
      validation_ = {file, training_.end, file->size()};
    } else {
      const auto valid = DataFile::Open("task.valid_path", config.valid_path);
      training_ = {file, 0, file->size()};
      validation_ = {valid, 0, valid->size()};
    }
    RequireWindow(training_, "for training");
    RequireWindow(validation_, "for validation");
    SetVocabulary(config.vocabulary);
  }

  TaskShape shape() const override {
    const auto symbols = static_cast<int64_t>(vocabulary_.size());
    return {.inputs = 0, .vocabulary = symbols, .outputs = symbols, .loss = LossKind::kCrossEntropyEveryStep};
  }
  std::string vocabulary() const override { return vocabulary_; }

  Batch TrainingBatch(int64_t step, int64_t, RowRange rows) const override {
    const auto starts = static_cast<uint64_t>(training_.size() - window_);
    return Windows(training_, rows,
                   [&](int64_t row) { return static_cast<int64_t>(TrainingRandom(seed_, step, row).Below(starts)); });
  }
  int64_t TrainingLossCount(int64_t, int64_t, int64_t batch_size) const override { return batch_size * window_; }

  int64_t EvaluationRows(int64_t wanted) const override { return std::min(wanted, (validation_.size() - 1) / window_); }
  Batch EvaluationBatch(int64_t, RowRange rows) const override {
    return Windows(validation_, rows, [&](int64_t row) { return row * window_; });
  }

  std::vector<Figure> Figures(const PassSums& sums) const override {
    const Figure loss = LossFigure(sums);
    return {loss, {"bits", loss.value / M_LN2}, AccuracyFigure(sums)};
  }

 private:
  void RequireWindow(const Span& span, const char* purpose) const {
    if (span.size() > window_) return;
    span.file->Refuse("leaves " + std::to_string(span.size()) + " bytes " + purpose + ", task.window needs at least " +
                      std::to_string(window_ + 1));
  }

  // All bytes of both files, or those of the checkpoint, which must cover them.
  void SetVocabulary(const std::string& given) {
    std::array<bool, 256> known{};
    for (const char c : given) known[static_cast<uint8_t>(c)] = true;
    for (const Span* span : {&training_, &validation_}) {
      for (int64_t i = 0; i < span->size(); ++i) {
        const uint8_t byte = span->data()[i];
        if (known[byte]) continue;
        if (!given.empty()) {
          span->file->Refuse(
              "byte " + std::to_string(byte) + " at offset " + std::to_string(span->begin + i) +
              " is not in the checkpoint's vocabulary: the file is not the one that the job started with");
        }
        known[byte] = true;
      }
    }
    vocabulary_ = given;
    if (given.empty()) {
      for (int byte = 0; byte < 256; ++byte) {
        if (known[static_cast<size_t>(byte)]) vocabulary_.push_back(static_cast<char>(byte));
      }
    }
    if (vocabulary_.size() < 2) training_.file->Refuse("consists of one byte value only: there is nothing to learn");
    for (size_t i = 0; i < vocabulary_.size(); ++i)
      symbol_of_[static_cast<uint8_t>(vocabulary_[i])] = static_cast<int64_t>(i);
  }

  template <typename StartOf>
  Batch Windows(const Span& span, RowRange rows, StartOf start_of) const {
    Batch batch;
    batch.inputs = at::empty({rows.count, window_}, at::kLong);
    batch.targets = at::empty({rows.count, window_}, at::kLong);
    int64_t* input = batch.inputs.data_ptr<int64_t>();
    int64_t* target = batch.targets.data_ptr<int64_t>();
    for (int64_t i = 0; i < rows.count; ++i) {
      const uint8_t* bytes = span.data() + start_of(rows.first + i);
      for (int64_t t = 0; t < window_; ++t) {
        *input++ = symbol_of_[bytes[t]];
        *target++ = symbol_of_[bytes[t + 1]];
      }
    }
    return batch;
  }

  const uint64_t seed_;
  const int64_t window_;
  Span training_;
  Span validation_;
  std::string vocabulary_;
  std::array<int64_t, 256> symbol_of_{};
};

}  // namespace

std::unique_ptr<Task> MakeTextTask(const TaskConfig& config) {
  return std::make_unique<TextTask>(config);
}

}  // namespace sab::model
