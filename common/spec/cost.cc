#include "common/spec/cost.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/memory_sizes.h"
#include "common/spec/model_config.h"
#include "common/spec/validate.h"
#include "model/cuda/plan.h"
#include "model/fast/footprint.h"

namespace sab::spec {
namespace {

using model::Kind;
using model::ModelConfig;
using model::TaskShape;

constexpr double kFloatBytes = 4;

// Resident, of a CPU trainer with next to nothing to do: measured 140 MiB, libraries included.
constexpr int64_t kProcessBytes = int64_t{144} << 20;

// What a task gives the network. Of files the largest that is usual: they are not opened here.
struct Data {
  TaskShape shape;
  int64_t steps = 100;       // of a training sequence, the longest of a curriculum
  int64_t eval_steps = 100;  // of the longest evaluation
  const char* assumed = "";
};

// The longest of `lengths`; `otherwise` where there are none.
template <class Lengths>
int64_t Longest(const Lengths& lengths, int64_t otherwise) {
  return lengths.empty() ? otherwise : *std::max_element(lengths.begin(), lengths.end());
}

Data OfLength(const v1::JobSpec& spec, const TaskShape& shape, int64_t extra_steps) {
  const int64_t length = spec.task().length();
  return {shape, extra_steps + Longest(spec.curriculum().lengths(), length),
          extra_steps + std::max(Longest(spec.eval().lengths(), length), Longest(spec.eval().final_lengths(), 1))};
}

Data DataOf(const v1::JobSpec& spec) {
  using model::LossKind;
  const v1::TaskSpec& task = spec.task();
  if (const std::optional<TaskShape> shape = ShapeOf(task)) {
    return OfLength(spec, *shape, task.kind() == v1::TASK_KIND_COPY ? 20 : 0);
  }
  switch (task.kind()) {
    case v1::TASK_KIND_TEXT:
      return {{0, 256, 256, LossKind::kCrossEntropyEveryStep},
              task.window(),
              task.window(),
              "; assumed: all 256 byte values occur"};
    case v1::TASK_KIND_IMAGE:
      return {{1, 0, 10, LossKind::kCrossEntropyLastStep}, 784, 784, "; assumed: 28 x 28 grey images of 10 classes"};
    default:
      return {{1, 0, 10, LossKind::kCrossEntropyLastStep}, 100, 100, "; assumed: 100 steps of 1 input, 10 classes"};
  }
}

// One replica's work: what is predicted from.
struct Work {
  ModelConfig config;
  Data data;
  int64_t rows = 1;
  int64_t eval_rows = 1;
  bool adam = true;
  bool momentum = false;  // of sgd
  bool alone = true;      // the only replica
};

Work WorkOf(const v1::JobSpec& spec) {
  // One that goes on with fewer replicas must hold the rows of those that it lost.
  const int64_t replicas = std::max<int64_t>(
      1, spec.resources().has_min_replicas() ? spec.resources().min_replicas() : spec.resources().replicas());
  const auto share = [replicas](int64_t rows) { return std::max<int64_t>(1, (rows + replicas - 1) / replicas); };
  Work work;
  work.config = ToModelConfig(spec);
  work.data = DataOf(spec);
  work.rows = share(spec.train().batch_size());
  // Evaluated in batches of the training's size.
  work.eval_rows = std::min(work.rows, share(std::max(spec.eval().sequences(), spec.eval().final_sequences())));
  work.adam = spec.train().optimizer() != v1::OPTIMIZER_KIND_SGD;
  work.momentum = !work.adam && spec.train().momentum() != 0;
  work.alone = replicas == 1;
  return work;
}

bool HasKeys(const ModelConfig& config) {
  return config.kind == Kind::kAttention || (config.kind == Kind::kSab && config.score == model::Score::kMlp);
}

// Parameters by where they are used.
struct Parameters {
  double cell = 0, attention = 0, output = 0, embedding = 0;
  double all() const { return cell + attention + output + embedding; }
};

Parameters CountParameters(const ModelConfig& config, const TaskShape& shape) {
  const double h = static_cast<double>(config.hidden_size), embedding = static_cast<double>(config.embedding_size);
  const double symbols = static_cast<double>(shape.vocabulary), outputs = static_cast<double>(shape.outputs);
  const double inputs = embedding > 0 ? embedding : static_cast<double>(shape.inputs) + symbols;
  Parameters count;
  count.cell = 4 * h * (inputs + h + 2);
  count.output = outputs * ((config.kind == Kind::kLstm ? h : 2 * h) + 1);
  count.embedding = symbols * embedding;
  if (config.kind != Kind::kLstm) count.attention = HasKeys(config) ? 2 * h * h + h : 2 * h;
  return count;
}

// Whether a step reads k_top memories and knows which without looking at the others.
bool ReadsFew(const ModelConfig& config) {
  return config.kind == Kind::kSab &&
         (config.recall == model::Recall::kLast || config.recall == model::Recall::kRandom);
}

// Sum over the steps of the number of memories read.
double MemoriesRead(const ModelConfig& config, double steps) {
  if (config.kind == Kind::kLstm) return 0;
  const double spacing = config.kind == Kind::kSab ? static_cast<double>(config.k_att) : 1;
  const double all = steps * steps / (2 * spacing) + steps;
  const double bound = static_cast<double>(ReadsFew(config) ? config.k_top : config.memory_capacity);
  return bound > 0 ? std::min(all, steps * bound) : all;
}

// Inputs and targets.
double BatchBytes(const TaskShape& shape, int64_t rows, int64_t steps) {
  const double places = static_cast<double>(rows) * static_cast<double>(steps);
  const double input = shape.vocabulary > 0 ? sizeof(int64_t) : kFloatBytes * static_cast<double>(shape.inputs);
  return places * (input + (shape.loss == model::LossKind::kCrossEntropyEveryStep ? sizeof(int64_t) : 0));
}

// What the trainer holds whatever the engine: a copy each of values and gradients, the optimiser's moments, the
// checkpoint that is being written (values and moments) and, among several replicas, the buffer of their exchange.
double TrainerBytes(const Work& work, double parameters) {
  const double moments = work.adam ? 2 : work.momentum ? 1 : 0;
  const double copies = 2 + moments + (1 + moments) + (work.alone ? 0 : 1);
  return copies * kFloatBytes * parameters;
}

// --- The fused engine on one thread.

// Fitted to bench/engine_bench.cc on an idle core with AVX-512 (within a quarter of each of 14 settings, 30 to 2,000
// steps, H 64 to 512, 8 to 64 rows); a core with AVX2 alone takes up to twice as long.
constexpr double kMultiplyAdds = 1.08e11;      // a second, of the matrix products as the engine has them
constexpr double kScoreTerms = 1.4e10;         // w tanh(k + q) a second, forward: backward only few are left
constexpr double kAttentionTerms = 3.9e9;      // the same with what full attention does for each going backward
constexpr double kRecallAllTerms = 4e8;        // the same of recall: all, whose tanh is computed four times
constexpr double kSecondsPerElement = 3.1e-9;  // of a state at a step: nonlinearities, and as much again for a recall
constexpr double kSecondsPerRowStep = 7e-8;

// Buffers only grow: an evaluation that needs more than the training finds the sum of the gradients still there.
double FastBytes(const Work& work, double parameters) {
  constexpr int64_t kThreads = 1;
  const Data& data = work.data;
  const auto training =
      static_cast<double>(model::fast::TrainingBytes(work.config, data.shape, work.rows, data.steps, kThreads));
  const auto evaluation = static_cast<double>(
      model::fast::EvaluationBytes(work.config, data.shape, work.eval_rows, data.eval_steps, kThreads));
  return std::max(training + BatchBytes(data.shape, work.rows, data.steps),
                  evaluation + BatchBytes(data.shape, work.eval_rows, data.eval_steps) + kFloatBytes * parameters);
}

// Multiply-adds of a training step in matrix products: forward, gradients of the inputs, gradients of the weights.
double Products(const Work& work) {
  const ModelConfig& config = work.config;
  const double h = static_cast<double>(config.hidden_size), steps = static_cast<double>(work.data.steps);
  const double outputs = static_cast<double>(work.data.shape.outputs) * (config.kind == Kind::kLstm ? h : 2 * h);
  double per_step = 4 * h * h + outputs;
  if (HasKeys(config)) {
    per_step += h * h;  // queries
    per_step += config.kind == Kind::kAttention ? h * h : h * h / static_cast<double>(config.k_att);
  }
  per_step += 4 * h * static_cast<double>(work.data.shape.inputs);  // symbols are looked up
  return 3 * static_cast<double>(work.rows) * steps * per_step;
}

bool RecallsAll(const ModelConfig& config) {
  return config.kind == Kind::kSab && config.recall == model::Recall::kAll;
}

// Terms w tanh(k + q) of a training step; a separable score has none that grow with the memories. Recalling them all
// takes as many for their sum whatever the score.
double ScoreTerms(const Work& work) {
  if (!HasKeys(work.config) && !RecallsAll(work.config)) return 0;
  return static_cast<double>(work.rows) * MemoriesRead(work.config, static_cast<double>(work.data.steps)) *
         static_cast<double>(work.config.hidden_size);
}

void PredictFast(const Work& work, double parameters, v1::CostEstimate* cost) {
  const bool attention = work.config.kind == Kind::kAttention;
  const double products = Products(work), terms = ScoreTerms(work);
  const double row_steps = static_cast<double>(work.rows) * static_cast<double>(work.data.steps);
  const double elements =
      row_steps * static_cast<double>(work.config.hidden_size) * (work.config.kind == Kind::kLstm ? 1 : 2);
  cost->set_peak_bytes(static_cast<int64_t>(FastBytes(work, parameters) + TrainerBytes(work, parameters)));
  // A term: sum, tanh, product, sum; of attention also the gradients and the weighted sums, forward and backward.
  cost->set_flops_per_step(2 * products + terms * (attention ? 14 : 4));
  const double rate = attention ? kAttentionTerms : RecallsAll(work.config) ? kRecallAllTerms : kScoreTerms;
  cost->set_seconds_per_step(products / kMultiplyAdds + terms / rate + elements * kSecondsPerElement +
                             row_steps * kSecondsPerRowStep);
}

// --- The CUDA engine.

// Not measured: what an H100 should do with kernels that wait for one another about three times a step. Nothing but the
// time printed by --dry-run depends on it.
constexpr double kGpuSecondsPerSweepStep = 1e-5;  // forward, and as much again backward
constexpr double kGpuProducts = 1e13;             // multiply-adds a second
constexpr double kGpuScoreTerms = 1e12;

void PredictCuda(const Work& work, double parameters, v1::CostEstimate* cost) {
  const double products = Products(work), terms = ScoreTerms(work);
  const bool attention = work.config.kind == Kind::kAttention;
  const Data& data = work.data;
  const auto training = static_cast<double>(model::cuda::TrainingBytes(work.config, data.shape, work.rows, data.steps));
  const auto evaluation =
      static_cast<double>(model::cuda::EvaluationBytes(work.config, data.shape, work.eval_rows, data.eval_steps));
  const auto graph = static_cast<double>(model::cuda::GraphBytes(work.config, data.shape, work.rows, data.steps));
  const double bytes = std::max(training + BatchBytes(data.shape, work.rows, data.steps),
                                evaluation + BatchBytes(data.shape, work.eval_rows, data.eval_steps));
  cost->set_peak_bytes(static_cast<int64_t>(bytes + graph + TrainerBytes(work, parameters)));
  cost->set_flops_per_step(2 * products + terms * (attention ? 14 : 4));
  cost->set_seconds_per_step(2 * static_cast<double>(work.data.steps) * kGpuSecondsPerSweepStep +
                             products / kGpuProducts + terms * (attention ? 4 : 1) / kGpuScoreTerms);
}

// --- The reference engine.

// Measured, kind sab, on CPUs at 64 rows, H = 128, k_att = 2: 1.1 GB at 120 steps and 4.6 GB at 320.
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

void PredictReference(const Work& work, const Parameters& parameters, bool gpu, v1::CostEstimate* cost) {
  const bool attends = work.config.kind != Kind::kLstm;
  const double hidden = static_cast<double>(work.config.hidden_size), rows = static_cast<double>(work.rows);
  const double steps = static_cast<double>(work.data.steps), reads = MemoriesRead(work.config, steps);
  const double activations =
      rows * hidden * kFloatBytes *
      (steps * (attends ? kTensorsPerStep : kTensorsPerLstmStep) + reads * kTensorsPerMemoryRead);
  const double forward =
      2 * rows * (steps * (parameters.cell + parameters.output + parameters.attention) + 2 * reads * hidden);
  const double overhead = steps * (gpu ? kGpuSecondsPerStep : kCpuSecondsPerStep) * (attends ? 2 : 1);
  cost->set_peak_bytes(static_cast<int64_t>(activations + BatchBytes(work.data.shape, work.rows, work.data.steps) +
                                            TrainerBytes(work, parameters.all())));
  cost->set_flops_per_step(3 * forward);  // backward costs twice the forward pass
  cost->set_seconds_per_step(overhead + 3 * forward / (gpu ? kGpuFlops : kCpuFlops) +
                             activations / (gpu ? kGpuBytes : kCpuBytes));
}

}  // namespace

int64_t NeededGpuBytes(const v1::JobSpec& spec) {
  constexpr int64_t kGib = int64_t{1} << 30;
  if (spec.resources().device() != v1::DEVICE_KIND_CUDA) return 0;
  const model::ModelConfig config = WorkOf(spec).config;
  if (config.engine == model::EngineKind::kReference || model::cuda::WhyNotCuda(config) != nullptr) return 0;
  return ((EstimateCost(spec).peak_bytes() + kGib - 1) / kGib + 1) * kGib;
}

int64_t PlacedGpuBytes(const v1::JobSpec& spec) {
  const std::string& wish = spec.resources().min_gpu_memory();
  return wish.empty() ? NeededGpuBytes(spec) : ParseMemory(wish).value_or(0);
}

int64_t PlacedCpuBytes(const v1::JobSpec& spec) {
  if (spec.resources().device() == v1::DEVICE_KIND_CUDA) return 0;
  if (const std::string& wish = spec.resources().memory(); !wish.empty()) {
    return RoundUpMemory(ParseMemory(wish).value_or(0));
  }
  const model::ModelConfig config = WorkOf(spec).config;
  const bool predictable = config.engine != model::EngineKind::kReference && model::fast::WhyNotFast(config) == nullptr;
  if (!predictable || !IsTraining(spec)) return 0;
  const int64_t peak = EstimateCost(spec).peak_bytes();
  return RoundUpMemory(kProcessBytes + peak + peak / 6);
}

v1::CostEstimate EstimateCost(const v1::JobSpec& spec) {
  const Work work = WorkOf(spec);
  const Parameters parameters = CountParameters(work.config, work.data.shape);
  const bool gpu = spec.resources().device() == v1::DEVICE_KIND_CUDA;
  const bool fused = work.config.engine != model::EngineKind::kReference &&
                     (gpu ? model::cuda::WhyNotCuda(work.config) : model::fast::WhyNotFast(work.config)) == nullptr;
  const bool fast = fused && !gpu;
  v1::CostEstimate cost;
  cost.set_parameters(static_cast<int64_t>(parameters.all()));
  if (fast) {
    PredictFast(work, parameters.all(), &cost);
  } else if (fused) {
    PredictCuda(work, parameters.all(), &cost);
  } else {
    PredictReference(work, parameters, gpu, &cost);
  }
  cost.set_basis(
      absl::StrCat(fast    ? "fused engine on one thread of a CPU with AVX-512"
                   : fused ? "fused engine on one GPU"
                   : gpu   ? "reference engine on one GPU"
                           : "reference engine on CPUs",
                   ", ", work.rows, " rows a replica, sequences of ", work.data.steps, " steps", work.data.assumed,
                   fast    ? "; memory within 15 %, data files not counted; seconds within a factor of two"
                   : fused ? "; memory of what the engine keeps, data files and CUDA's own not counted; seconds a guess"
                           : "; within a factor of about two"));
  return cost;
}

}  // namespace sab::spec
