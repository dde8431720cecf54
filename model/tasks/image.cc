// Class of an image read pixel by pixel: MNIST's IDX files, CIFAR's binary files.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "model/tasks/data_file.h"
#include "model/tasks/internal.h"

namespace sab::model {
namespace {

// Images and labels of one source. Pixel p, channel c of image i is at pixels[i * image_stride + c * channel_stride +
// p].
struct Images {
  std::shared_ptr<const DataFile> file;
  std::shared_ptr<const DataFile> labels_file;
  const uint8_t* pixels = nullptr;
  const uint8_t* labels = nullptr;  // of image i: labels[i * label_stride]
  int64_t image_stride = 0, channel_stride = 0, label_stride = 1;
  int64_t count = 0, steps = 0, channels = 1;
};

int64_t BigEndian32(const uint8_t* bytes) {
  return (int64_t{bytes[0]} << 24) | (int64_t{bytes[1]} << 16) | (int64_t{bytes[2]} << 8) | int64_t{bytes[3]};
}

// The sizes of an IDX file of unsigned bytes with `dimensions` of them; its data must follow in full.
std::vector<int64_t> IdxShape(const DataFile& file, int dimensions) {
  const int64_t header = 4 + 4 * dimensions;
  if (file.size() < header)
    file.Refuse("is cut off: the IDX header takes " + std::to_string(header) + " bytes, it has " +
                std::to_string(file.size()));
  const int64_t magic = BigEndian32(file.data());
  if (magic != 0x800 + dimensions) {
    file.Refuse("is not an IDX file of unsigned bytes with " + std::to_string(dimensions) +
                " dimension(s): starts with the number " + std::to_string(magic) + " and not " +
                std::to_string(0x800 + dimensions));
  }
  std::vector<int64_t> shape;
  int64_t bytes = 1;
  for (int d = 0; d < dimensions; ++d) {
    shape.push_back(BigEndian32(file.data() + 4 + 4 * d));
    if (shape.back() == 0) file.Refuse("has no elements: dimension " + std::to_string(d) + " is 0");
    if (__builtin_mul_overflow(bytes, shape.back(), &bytes))
      file.Refuse("has a damaged IDX header: its sizes overflow");
  }
  if (file.size() != header + bytes) {
    file.Refuse("has " + std::to_string(file.size()) + " bytes, its IDX header promises " +
                std::to_string(header + bytes));
  }
  return shape;
}

Images OpenIdx(std::shared_ptr<const DataFile> file, const std::string& labels_field, const std::string& labels_path) {
  const std::vector<int64_t> shape = IdxShape(*file, 3);
  if (labels_path.empty()) file->Refuse("is in IDX format, so " + labels_field + " must name the labels' file");
  Images images;
  images.labels_file = DataFile::Open(labels_field, labels_path);
  const int64_t labels = IdxShape(*images.labels_file, 1)[0];
  if (labels != shape[0]) {
    images.labels_file->Refuse("has " + std::to_string(labels) + " labels, '" + file->path() + "' has " +
                               std::to_string(shape[0]) + " images");
  }
  images.count = shape[0];
  images.steps = shape[1] * shape[2];
  images.image_stride = images.steps;
  images.pixels = file->data() + 16;
  images.labels = images.labels_file->data() + 8;
  images.file = std::move(file);
  return images;
}

// Records of 1 (CIFAR-10) or 2 (CIFAR-100: coarse, fine) label bytes and 3 planes of 32 x 32.
Images OpenCifar(std::shared_ptr<const DataFile> file) {
  constexpr int64_t kPixels = 32 * 32;
  constexpr int64_t kPlanes = 3 * kPixels;
  const int64_t label_bytes = file->size() % (kPlanes + 1) == 0 ? 1 : 2;
  const int64_t record = kPlanes + label_bytes;
  if (file->size() % record != 0) {
    file->Refuse("is neither IDX nor CIFAR binary: " + std::to_string(file->size()) +
                 " bytes are no multiple of 3073 or 3074");
  }
  Images images;
  images.count = file->size() / record;
  images.steps = kPixels;
  images.channels = 3;
  images.image_stride = record;
  images.channel_stride = kPixels;
  images.label_stride = record;
  images.labels = file->data() + label_bytes - 1;
  images.pixels = file->data() + label_bytes;
  images.file = std::move(file);
  return images;
}

Images OpenImages(const std::string& section, const std::string& path, const std::string& labels_path) {
  auto file = DataFile::Open(section + ".path", path);
  const bool idx = file->size() >= 4 && file->data()[0] == 0 && file->data()[1] == 0 && file->data()[2] == 8;
  if (idx || !labels_path.empty()) return OpenIdx(std::move(file), section + ".labels_path", labels_path);
  return OpenCifar(std::move(file));
}

class ImageTask : public Task {
 public:
  explicit ImageTask(const TaskConfig& config) : seed_(config.seed), batch_size_(config.batch_size) {
    training_ = OpenImages("task", config.path, config.labels_path);
    training_rows_ = training_.count;
    for (int64_t i = 0; i < training_.count; ++i) classes_ = std::max<int64_t>(classes_, LabelOf(training_, i) + 1);
    if (config.eval_path.empty()) {
      held_out_ = training_;
      training_rows_ -= HeldOutRows(training_.count, config.path);
      held_out_first_ = training_rows_;
    } else {
      held_out_ = OpenImages("eval", config.eval_path, config.eval_labels_path);
      CheckHeldOut();
    }
    order_.resize(static_cast<size_t>(training_.steps));
    std::iota(order_.begin(), order_.end(), 0);
    if (config.permute_seed) Permute(*config.permute_seed);
  }

  TaskShape shape() const override {
    return {
        .inputs = training_.channels, .vocabulary = 0, .outputs = classes_, .loss = LossKind::kCrossEntropyLastStep};
  }

  Batch TrainingBatch(int64_t step, int64_t, RowRange rows) const override {
    return Read(training_, rows,
                [&](int64_t row) { return ShuffledRow(seed_, (step - 1) * batch_size_ + row, training_rows_); });
  }
  int64_t TrainingLossCount(int64_t, int64_t, int64_t batch_size) const override { return batch_size; }

  int64_t EvaluationRows(int64_t wanted) const override { return std::min(wanted, held_out_.count - held_out_first_); }
  Batch EvaluationBatch(int64_t, RowRange rows) const override {
    return Read(held_out_, rows, [&](int64_t row) { return held_out_first_ + row; });
  }

  std::vector<Figure> Figures(const PassSums& sums) const override { return {LossFigure(sums), AccuracyFigure(sums)}; }

 private:
  static int64_t LabelOf(const Images& images, int64_t i) { return images.labels[i * images.label_stride]; }

  void CheckHeldOut() const {
    if (held_out_.steps != training_.steps || held_out_.channels != training_.channels) {
      held_out_.file->Refuse("has images of " + std::to_string(held_out_.steps) + " pixels and " +
                             std::to_string(held_out_.channels) + " channel(s), task.path has " +
                             std::to_string(training_.steps) + " and " + std::to_string(training_.channels));
    }
    for (int64_t i = 0; i < held_out_.count; ++i) {
      if (LabelOf(held_out_, i) < classes_) continue;
      held_out_.file->Refuse("image " + std::to_string(i) + " has label " + std::to_string(LabelOf(held_out_, i)) +
                             ", the largest in training is " + std::to_string(classes_ - 1));
    }
  }

  void Permute(uint64_t seed) {
    Random random(seed);
    for (size_t i = order_.size() - 1; i > 0; --i) std::swap(order_[i], order_[random.Below(i + 1)]);
  }

  template <typename ImageOf>
  Batch Read(const Images& images, RowRange rows, ImageOf image_of) const {
    Batch batch;
    batch.inputs = at::empty({rows.count, images.steps, images.channels}, at::kFloat);
    batch.targets = at::empty({rows.count}, at::kLong);
    batch.metric_from = images.steps - 1;
    float* input = batch.inputs.data_ptr<float>();
    for (int64_t i = 0; i < rows.count; ++i) {
      const int64_t image = image_of(rows.first + i);
      const uint8_t* pixels = images.pixels + image * images.image_stride;
      for (const int64_t pixel : order_) {
        for (int64_t c = 0; c < images.channels; ++c)
          *input++ = static_cast<float>(pixels[c * images.channel_stride + pixel]) / 255.0f;
      }
      batch.targets.data_ptr<int64_t>()[i] = LabelOf(images, image);
    }
    return batch;
  }

  const uint64_t seed_;
  const int64_t batch_size_;
  Images training_;
  Images held_out_;
  int64_t training_rows_ = 0;
  int64_t held_out_first_ = 0;
  int64_t classes_ = 0;
  std::vector<int64_t> order_;  // pixel shown at each step
};

}  // namespace

std::unique_ptr<Task> MakeImageTask(const TaskConfig& config) {
  return std::make_unique<ImageTask>(config);
}

}  // namespace sab::model
