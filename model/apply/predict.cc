#include "model/apply/predict.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "model/train/on_device.h"

namespace sab::model {
namespace {

std::string ShapeText(const ArrayView& array) {
  std::string text = array.dtype + " (";
  for (size_t i = 0; i < array.shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(array.shape[i]);
  return text + ")";
}

[[noreturn]] void Refuse(const TensorData& data, const std::string& reason) {
  throw std::invalid_argument("predict.input '" + data.path + "': " + reason);
}

// A copy: the file's bytes need not be aligned.
at::Tensor Copy(const ArrayView& array, at::ScalarType type) {
  at::Tensor tensor = at::empty(array.shape, type);
  std::memcpy(tensor.mutable_data_ptr(), array.data, tensor.nbytes());
  return tensor;
}

// All rows as one batch, checked.
Batch Read(const TensorData& data, const TaskShape& shape) {
  if (!data.inputs) Refuse(data, "has no array 'inputs'");
  const ArrayView& inputs = *data.inputs;
  const bool symbols = shape.vocabulary > 0;
  const std::string wanted = symbols ? "I64 (N, T)" : "F32 (N, T, " + std::to_string(shape.inputs) + ")";
  const bool fits = symbols ? inputs.dtype == "I64" && inputs.shape.size() == 2
                            : inputs.dtype == "F32" && inputs.shape.size() == 3 && inputs.shape[2] == shape.inputs;
  if (!fits) Refuse(data, "inputs must be " + wanted + " as this network reads them, got " + ShapeText(inputs));
  if (std::any_of(inputs.shape.begin(), inputs.shape.end(), [](int64_t size) { return size < 1; }))
    Refuse(data, "inputs has no elements: " + ShapeText(inputs));
  Batch batch;
  batch.inputs = Copy(inputs, symbols ? at::kLong : at::kFloat);
  if (data.lengths) {
    if (data.lengths->dtype != "I64" || data.lengths->shape != std::vector<int64_t>{batch.rows()})
      Refuse(data, "lengths must be I64 (" + std::to_string(batch.rows()) + "), got " + ShapeText(*data.lengths));
    batch.lengths = Copy(*data.lengths, at::kLong);
    if (batch.lengths.min().item<int64_t>() < 1 || batch.lengths.max().item<int64_t>() > batch.steps())
      Refuse(data, "lengths must be from 1 to " + std::to_string(batch.steps()));
    // Padding may hold anything in the file; an index must be in range.
    const at::Tensor behind = at::arange(batch.steps(), at::kLong).unsqueeze(0) >= batch.lengths.unsqueeze(1);
    if (symbols) batch.inputs.masked_fill_(behind, 0);
  }
  if (symbols && (batch.inputs.min().item<int64_t>() < 0 || batch.inputs.max().item<int64_t>() >= shape.vocabulary)) {
    Refuse(data, "inputs must be symbols from 0 to " + std::to_string(shape.vocabulary - 1) + ", got from " +
                     std::to_string(batch.inputs.min().item<int64_t>()) + " to " +
                     std::to_string(batch.inputs.max().item<int64_t>()));
  }
  return batch;
}

// (b,T,O) -> what the task asks for.
at::Tensor Asked(const at::Tensor& outputs, const at::Tensor& lengths, const TaskShape& shape) {
  const int64_t rows = outputs.size(0), steps = outputs.size(1);
  if (shape.loss == LossKind::kCrossEntropyEveryStep) {
    if (!lengths.defined()) return outputs;
    const at::Tensor behind = at::arange(steps, at::kLong).unsqueeze(0) >= lengths.unsqueeze(1);
    return outputs.masked_fill(behind.unsqueeze(2), 0);
  }
  if (!lengths.defined()) return outputs.select(1, steps - 1);
  const at::Tensor last = (lengths - 1).view({rows, 1, 1}).expand({rows, 1, outputs.size(2)});
  return outputs.gather(1, last).squeeze(1);
}

}  // namespace

std::optional<Prediction> Predict(const TensorData& data, int64_t batch_size, const TaskShape& shape, Engine& engine,
                                  const ParameterSet& parameters, const WorkProgress& progress) {
  const Batch all = Read(data, shape);
  std::vector<at::Tensor> pieces;
  for (int64_t done = 0; done < all.rows(); done += batch_size) {
    const int64_t count = std::min(batch_size, all.rows() - done);
    Batch batch;
    batch.inputs = all.inputs.narrow(0, done, count);
    if (all.lengths.defined()) batch.lengths = all.lengths.narrow(0, done, count);
    const at::Tensor outputs = engine.Outputs(OnDevice(batch, parameters.values())).to(at::kCPU, at::kFloat);
    pieces.push_back(Asked(outputs, batch.lengths, shape).contiguous());
    if (!progress(done + count, all.rows())) return std::nullopt;
  }
  Prediction prediction;
  prediction.outputs = at::cat(pieces);
  // The first of equals, as argmax promises.
  if (shape.loss != LossKind::kMseLastStep) prediction.classes = prediction.outputs.argmax(-1);
  return prediction;
}

}  // namespace sab::model
