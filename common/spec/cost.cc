#include "common/spec/cost.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace sab::spec {
namespace {

// Shapes of a task. For files the largest ones that are usual: they are not opened here.
struct Shapes {
  double inputs = 1;
  double outputs = 10;
  double steps = 100;     // of one training sequence
  double vocabulary = 0;  // > 0: symbols
  const char* assumed = "";
};

Shapes ShapesOf(const v1::TaskSpec& task) {
  const double length = static_cast<double>(task.length());
  switch (task.kind()) {
    case v1::TASK_KIND_COPY:
      return {task.one_hot() ? 10.0 : 1.0, 10, length + 20};
    case v1::TASK_KIND_ADDING:
      return {2, 1, length};
    case v1::TASK_KIND_RECALL:
      return {17, 8, length};
    case v1::TASK_KIND_TEXT:
      return {256, 256, static_cast<double>(task.window()), 256, "; assumed: all 256 byte values occur"};
    case v1::TASK_KIND_IMAGE:
      return {1, 10, 784, 0, "; assumed: 28 x 28 grey images of 10 classes"};
    default:
      return {1, 10, 100, 0, "; assumed: 100 steps of 1 input, 10 classes"};
  }
}

double AttentionParameters(const v1::ModelSpec& model, double hidden) {
  if (model.kind() == v1::MODEL_KIND_LSTM) return 0;
  if (model.kind() == v1::MODEL_KIND_SAB && model.score() == v1::SCORE_KIND_SEPARABLE) return 2 * hidden;
  return 2 * hidden * hidden + hidden;
}

// Sum over the steps of the number of memories read.
double MemoriesRead(const v1::ModelSpec& model, double steps) {
  if (model.kind() == v1::MODEL_KIND_LSTM) return 0;
  const double spacing = model.kind() == v1::MODEL_KIND_SAB ? static_cast<double>(model.k_att()) : 1;
  const double all = steps * steps / (2 * spacing) + steps;
  const double bound = static_cast<double>(model.memory().capacity());
  return bound > 0 ? std::min(all, steps * bound) : all;
}

// Measured on the reference engine, kind sab, on CPUs at 64 rows, H = 128, k_att = 2: 1.1 GB at 120 steps and 4.6 GB at
// 320.
constexpr double kTensorsPerStep = 184;        // (rows, H) tensors that autograd keeps of a step with attention
constexpr double kTensorsPerLstmStep = 24;     // and of one without
constexpr double kTensorsPerMemoryRead = 3.2;  // (rows, H) tensors of one memory's score
// Rates of small operations, not of the hardware's peak.
constexpr double kCpuFlops = 1e10;
constexpr double kGpuFlops = 5e12;
constexpr double kCpuBytes = 8e9;
constexpr double kGpuBytes = 1e12;
constexpr double kCpuSecondsPerStep = 2e-4;  // of an LSTM step, forward and backward; with attention twice as much
constexpr double kGpuSecondsPerStep = 8e-4;

}  // namespace

v1::CostEstimate EstimateCost(const v1::JobSpec& spec) {
  const v1::ModelSpec& model = spec.model();
  Shapes shapes = ShapesOf(spec.task());
  const double hidden = static_cast<double>(model.hidden_size());
  const double embedding = shapes.vocabulary > 0 ? static_cast<double>(model.embedding_size()) : 0;
  if (embedding > 0) shapes.inputs = embedding;
  const double replicas = static_cast<double>(spec.resources().replicas());
  const double rows = std::max(1.0, (static_cast<double>(spec.train().batch_size()) + replicas - 1) / replicas);
  const bool attends = model.kind() != v1::MODEL_KIND_LSTM;
  const double features = attends ? 2 * hidden : hidden;
  const double cell = 4 * hidden * (shapes.inputs + hidden + 2);
  const double output = shapes.outputs * (features + 1);
  const double parameters = cell + output + AttentionParameters(model, hidden) + shapes.vocabulary * embedding;

  const double reads = MemoriesRead(model, shapes.steps);
  const double row_bytes = rows * hidden * 4;
  const double activations =
      row_bytes * (shapes.steps * (attends ? kTensorsPerStep : kTensorsPerLstmStep) + reads * kTensorsPerMemoryRead);
  const double forward =
      2 * rows * (shapes.steps * (cell + output + AttentionParameters(model, hidden)) + 2 * reads * hidden);
  const bool gpu = spec.resources().device() == v1::DEVICE_KIND_CUDA;
  const double overhead = shapes.steps * (gpu ? kGpuSecondsPerStep : kCpuSecondsPerStep) * (attends ? 2 : 1);

  v1::CostEstimate cost;
  cost.set_parameters(static_cast<int64_t>(parameters));
  cost.set_peak_bytes(static_cast<int64_t>(activations + 4 * 4 * parameters));  // values, gradients, two moments
  cost.set_flops_per_step(3 * forward);                                         // backward costs twice the forward pass
  cost.set_seconds_per_step(overhead + 3 * forward / (gpu ? kGpuFlops : kCpuFlops) +
                            activations / (gpu ? kGpuBytes : kCpuBytes));
  cost.set_basis(absl::StrCat("reference engine on ", gpu ? "one GPU" : "CPUs", ", ", static_cast<int64_t>(rows),
                              " rows a replica, sequences of ", static_cast<int64_t>(shapes.steps), " steps",
                              shapes.assumed, "; within a factor of about two"));
  return cost;
}

}  // namespace sab::spec
