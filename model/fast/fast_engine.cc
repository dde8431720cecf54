#include "model/fast/fast_engine.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/fast/block_saver.h"
#include "model/fast/block_sum.h"
#include "model/fast/buffer.h"
#include "model/fast/footprint.h"
#include "model/fast/input_layer.h"
#include "model/fast/plan.h"
#include "model/fast/team.h"
#include "model/random.h"
#include "model/row_streams.h"

namespace sab::model {
namespace {

using fast::BlockInput;
using fast::BlockSaver;
using fast::BlockSum;
using fast::BlockSums;
using fast::Gradients;
using fast::Plan;

template <class T>
class FastEngine : public Engine {
 public:
  FastEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters)
      : config_(config), shape_(shape), parameters_(parameters), kernels_(fast::BestKernels<T>()) {}

  PassSums ForwardBackward(const Batch& batch, double loss_scale) override {
    const Plan plan = fast::MakePlan(config_, shape_, batch.rows(), batch.steps(), true);
    PassSums sums = RunBlocks(plan, batch, loss_scale, nullptr);
    AddGradients(plan);
    return sums;
  }

  PassSums Evaluate(const Batch& batch) override {
    return RunBlocks(fast::MakePlan(config_, shape_, batch.rows(), batch.steps(), false), batch, 0, nullptr);
  }

  // Kind attention reads all states at once, from beginning to end.
  bool SetSavePoints(SavePoints* points) override {
    if (config_.kind == Kind::kAttention) return false;
    points_ = points;
    return true;
  }

  // Adds each part's ticks in later passes, from every thread: for one thread only. Null: ends it.
  void Measure(int64_t* ticks) { ticks_ = ticks; }

  at::Tensor Outputs(const Batch& batch) override {
    at::Tensor y = at::empty({batch.rows(), batch.steps(), shape_.outputs}, parameters_.values().options());
    RunBlocks(fast::MakePlan(config_, shape_, batch.rows(), batch.steps(), false), batch, 0, y.mutable_data_ptr<T>());
    return y;
  }

 private:
  // The batch's tensors as the kernels read them: contiguous, of the network's type.
  struct Inputs {
    // Of the tensors' bytes.
    uint64_t Hash() const;

    Inputs(const Batch& batch, const TaskShape& shape, at::ScalarType type, bool with_targets);
    BlockInput<T> Block(int64_t first, int64_t rows, int64_t steps, const TaskShape& shape) const;

    at::Tensor x, symbols, targets, values, lengths;
    std::vector<uint64_t> streams;  // of recall: random; otherwise empty
  };

  const T* Find(const char* name) const {
    for (const Parameter& p : parameters_.all()) {
      if (p.name == name) return p.value.const_data_ptr<T>();
    }
    return nullptr;
  }

  T* FindGradient(const char* name) const { return parameters_.Get(name).gradient.mutable_data_ptr<T>(); }

  fast::PackedNet<T> PackNet(const Plan& plan);
  PassSums RunBlocks(const Plan& plan, const Batch& batch, double loss_scale, T* outputs);
  // How a training pass is saved; nothing where it is not. What is referred to outlives it.
  std::optional<typename BlockSaver<T>::Pass> SavedPass(const Plan& plan, const Inputs& inputs, double loss_scale,
                                                        BlockSum<T>* sum) const;
  // What a training pass's results depend on, but for what the configuration and the program say.
  std::string IdentityOf(const Plan& plan, const Inputs& inputs, double loss_scale) const;
  void AddGradients(const Plan& plan);
  Gradients<T> Total(const Plan& plan) { return fast::LayOutGradients<T>(plan, reinterpret_cast<T*>(total_.Need(0))); }

  const ModelConfig config_;
  const TaskShape shape_;
  ParameterSet& parameters_;
  const fast::Kernels<T>& kernels_;
  std::unique_ptr<fast::Team> team_;
  std::vector<fast::Buffer> work_;  // a thread each: workspace, then gradients of its block
  fast::Buffer net_, total_;        // packed weights; sum of the blocks' gradients
  std::vector<T> input_gates_, wide_;
  int64_t* ticks_ = nullptr;
  SavePoints* points_ = nullptr;
};

template <class T>
FastEngine<T>::Inputs::Inputs(const Batch& batch, const TaskShape& shape, at::ScalarType type, bool with_targets) {
  const auto check = [](const at::Tensor& t, int64_t low, int64_t high, const char* what) {
    const int64_t* v = t.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < t.numel(); ++i) {
      if (v[i] < low || v[i] >= high) {
        throw std::invalid_argument(std::string(what) + ": must be within " + std::to_string(low) + " and " +
                                    std::to_string(high - 1) + ", got " + std::to_string(v[i]));
      }
    }
  };
  if (shape.vocabulary > 0) {
    symbols = batch.inputs.to(at::kLong).contiguous();
    check(symbols, 0, shape.vocabulary, "inputs");
  } else {
    x = batch.inputs.to(type).contiguous();
  }
  if (batch.lengths.defined()) {
    lengths = batch.lengths.to(at::kLong).contiguous();
    check(lengths, 0, batch.steps() + 1, "lengths");
  }
  if (!with_targets) return;
  if (shape.loss == LossKind::kMseLastStep) {
    values = batch.targets.to(type).contiguous();
    return;
  }
  targets = batch.targets.to(at::kLong).contiguous();
}

template <class T>
BlockInput<T> FastEngine<T>::Inputs::Block(int64_t first, int64_t rows, int64_t steps, const TaskShape& shape) const {
  BlockInput<T> in;
  in.rows = rows;
  if (x.defined()) in.x = x.const_data_ptr<T>() + first * steps * shape.inputs;
  if (symbols.defined()) in.symbols = symbols.const_data_ptr<int64_t>() + first * steps;
  const int64_t target_stride = shape.loss == LossKind::kCrossEntropyEveryStep ? steps : 1;
  if (targets.defined()) in.targets = targets.const_data_ptr<int64_t>() + first * target_stride;
  if (values.defined()) in.target_values = values.const_data_ptr<T>() + first * shape.outputs;
  if (lengths.defined()) in.lengths = lengths.const_data_ptr<int64_t>() + first;
  if (!streams.empty()) in.streams = streams.data() + first;
  return in;
}

template <class T>
fast::PackedNet<T> FastEngine<T>::PackNet(const Plan& plan) {
  const fast::InputLayer<T> layer(plan, config_.embedding_size, Find("cell.weight_ih"), Find("embedding.weight"));
  input_gates_.resize(static_cast<size_t>(layer.table_size()));
  layer.MakeTable(input_gates_.data());
  wide_.resize(static_cast<size_t>(std::max(4 * plan.hidden, plan.outputs) * plan.hidden));
  fast::NetView<T> view;
  view.w_hh = Find("cell.weight_hh");
  view.input_gates = input_gates_.data();
  view.b_ih = Find("cell.bias_ih");
  view.b_hh = Find("cell.bias_hh");
  view.w_m = Find("attention.memory.weight");
  view.w_q = Find("attention.query.weight");
  view.score = Find(plan.is_separable() ? "attention.memory_score.weight" : "attention.score.weight");
  view.query_score = Find("attention.query_score.weight");
  view.v = Find("output.weight");
  view.out_bias = Find("output.bias");
  fast::PackedNet<T> net = fast::LayOutNet<T>(plan, net_.Need(fast::LayOutNet<T>(plan, nullptr).bytes));
  kernels_.pack(plan, view, &net, wide_.data());
  return net;
}

template <class T>
PassSums FastEngine<T>::RunBlocks(const Plan& plan, const Batch& batch, double loss_scale, T* outputs) {
  const int64_t rows = batch.rows(), blocks = (rows + plan.rows - 1) / plan.rows;
  Inputs inputs(batch, shape_, parameters_.values().scalar_type(), outputs == nullptr);
  if (plan.recalls() && config_.recall == Recall::kRandom) inputs.streams = RowStreams(batch);
  const fast::PackedNet<T> net = PackNet(plan);
  const int threads = at::get_num_threads();
  if (team_ == nullptr || team_->size() != threads) team_ = std::make_unique<fast::Team>(threads);

  const auto at_once = static_cast<size_t>(std::min<int64_t>(threads, blocks));
  if (work_.size() < at_once) work_.resize(at_once);
  const size_t work_bytes = fast::LayOutWorkspace<T>(plan, nullptr).bytes;
  const int64_t count = plan.backward ? fast::LayOutGradients<T>(plan, nullptr).count : 0;
  const size_t gradient_bytes = static_cast<size_t>(count) * sizeof(T);
  for (size_t i = 0; i < at_once; ++i) work_[i].Need(work_bytes + gradient_bytes);
  T* const total = reinterpret_cast<T*>(total_.Need(gradient_bytes));
  std::fill_n(total, count, T{0});

  BlockSum<T> sum(total, count);
  const std::optional<typename BlockSaver<T>::Pass> saved = SavedPass(plan, inputs, loss_scale, &sum);
  if (saved) sum.Load(saved->points, saved->identity);
  std::atomic<int64_t> next{sum.done()};
  team_->Run([&](int member) {
    if (static_cast<size_t>(member) >= at_once) return;
    char* const base = work_[static_cast<size_t>(member)].Need(0);
    const fast::Workspace<T> work = fast::LayOutWorkspace<T>(plan, base);
    T* const part = reinterpret_cast<T*>(base + work_bytes);
    for (int64_t block = next++; block < blocks && !sum.left(); block = next++) {
      const int64_t first = block * plan.rows;
      BlockInput<T> in = inputs.Block(first, std::min(plan.rows, rows - first), plan.steps, shape_);
      in.metric_from = batch.metric_from;
      in.loss_scale = loss_scale;
      in.ticks = ticks_;
      if (outputs != nullptr) in.outputs = outputs + first * plan.steps * shape_.outputs;
      BlockSums block_sums;
      std::fill_n(part, count, T{0});
      if (!plan.backward) {
        kernels_.evaluate(plan, net, in, work, &block_sums);
        sum.Add(block, part, block_sums);
        continue;
      }
      const fast::BlockMemory<T> memory{plan, in.rows, work, part, count, &block_sums};
      std::optional<BlockSaver<T>> saver;
      if (saved) in.pauses = saver.emplace(*saved, member, block, memory).pauses();
      if (!kernels_.train(plan, net, in, work, fast::LayOutGradients<T>(plan, part), &block_sums)) {
        sum.Leave();
      } else if (!sum.Add(block, part, block_sums)) {
        saver->KeepDone();
      }
    }
  });
  if (sum.left()) throw PassStopped();
  if (saved && saved->points.IsLong()) saved->save_sum();
  return sum.sums();
}

template <class T>
std::optional<typename BlockSaver<T>::Pass> FastEngine<T>::SavedPass(const Plan& plan, const Inputs& inputs,
                                                                     double loss_scale, BlockSum<T>* sum) const {
  if (points_ == nullptr || !plan.backward) return std::nullopt;
  // Hashing takes its time: once, and only if it is asked for.
  struct Once {
    std::once_flag flag;
    std::string text;
  };
  const auto identity = [this, &plan, &inputs, loss_scale, once = std::make_shared<Once>()] {
    std::call_once(once->flag, [&] { once->text = IdentityOf(plan, inputs, loss_scale); });
    return once->text;
  };
  return typename BlockSaver<T>::Pass{*points_, identity, [this, sum, identity] { sum->Save(*points_, identity); }};
}

template <class T>
uint64_t FastEngine<T>::Inputs::Hash() const {
  uint64_t hash = 0;
  for (const at::Tensor* tensor : {&x, &symbols, &targets, &values, &lengths}) {
    const uint64_t one = tensor->defined() ? HashBytes(tensor->const_data_ptr(), tensor->nbytes()) : 0;
    const uint64_t both[] = {hash, one};
    hash = HashBytes(both, sizeof(both));
  }
  return hash;
}

template <class T>
std::string FastEngine<T>::IdentityOf(const Plan& plan, const Inputs& inputs, double loss_scale) const {
  const at::Tensor& values = parameters_.values();
  uint64_t scale = 0;
  std::memcpy(&scale, &loss_scale, sizeof(scale));
  std::string text = std::string(kernels_.name) + "," + std::to_string(sizeof(T));
  for (const uint64_t number :
       {HashBytes(values.const_data_ptr(), values.nbytes()), inputs.Hash(), scale, static_cast<uint64_t>(plan.rows),
        static_cast<uint64_t>(plan.steps), static_cast<uint64_t>(plan.chunk), static_cast<uint64_t>(plan.recompute)}) {
    text += "," + std::to_string(number);
  }
  return text;
}

// From the padded, transposed sums of the blocks to the parameters' gradients.
template <class T>
void FastEngine<T>::AddGradients(const Plan& plan) {
  const Gradients<T> g = Total(plan);
  const int64_t h = config_.hidden_size, wide = 4 * plan.hidden;
  T* const w_hh = FindGradient("cell.weight_hh");
  T* const b_ih = FindGradient("cell.bias_ih");
  T* const b_hh = FindGradient("cell.bias_hh");
  const fast::InputLayer<T> layer(plan, config_.embedding_size, Find("cell.weight_ih"), Find("embedding.weight"));
  layer.AddGradients(g.input_gates, FindGradient("cell.weight_ih"),
                     config_.embedding_size > 0 ? FindGradient("embedding.weight") : nullptr);
  for (int64_t part = 0; part < 4; ++part)
    for (int64_t j = 0; j < h; ++j) {
      const int64_t from = part * plan.hidden + j, to = part * h + j;
      b_ih[to] += g.bias[from];
      b_hh[to] += g.bias[from];
      for (int64_t k = 0; k < h; ++k) w_hh[to * h + k] += g.w_hh[k * wide + from];
    }
  const auto add = [&](const char* name, int64_t rows, const T* from, int64_t stride, int64_t offset) {
    T* to = FindGradient(name) + offset;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < h; ++k) to[r * stride + k] += from[r * plan.hidden + k];
  };
  if (plan.has_keys()) {
    add("attention.memory.weight", h, g.w_m, h, 0);
    add("attention.query.weight", h, g.w_q, h, 0);
  }
  if (plan.attends())
    add(plan.is_separable() ? "attention.memory_score.weight" : "attention.score.weight", 1, g.score, h, 0);
  if (plan.is_separable()) add("attention.query_score.weight", 1, g.query_score, h, 0);
  const int64_t features = plan.attends() ? 2 * h : h;
  add("output.weight", shape_.outputs, g.v_h, features, 0);
  if (plan.attends()) add("output.weight", shape_.outputs, g.v_s, features, h);
  T* const out_bias = FindGradient("output.bias");
  for (int64_t o = 0; o < shape_.outputs; ++o) out_bias[o] += g.out_bias[o];
}

}  // namespace

bool FastEngineSupports(const ModelConfig& config, const TaskShape& shape, at::Device device, std::string* why_not) {
  const char* why = device.is_cpu() ? fast::WhyNotFast(config) : "device: the fused engine runs on a CPU";
  if (why != nullptr && why_not != nullptr) *why_not = why;
  return why == nullptr;
}

std::unique_ptr<Engine> MakeFastEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters) {
  std::string why_not;
  if (!FastEngineSupports(config, shape, parameters.values().device(), &why_not)) throw std::invalid_argument(why_not);
  if (config.precision == Precision::kFp64) return std::make_unique<FastEngine<double>>(config, shape, parameters);
  return std::make_unique<FastEngine<float>>(config, shape, parameters);
}

std::vector<std::pair<std::string, double>> ProfileFastStep(const ModelConfig& config, const TaskShape& shape,
                                                            ParameterSet& parameters, const Batch& batch) {
  static constexpr const char* kNames[fast::kParts] = {
      "cell: products",   "cell: pointwise", "queries",       "scores and recall", "memories and keys",
      "outputs and loss", "recall backward", "cell backward", "weight gradients",  "attention"};
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  FastEngine<float> engine(config, shape, parameters);
  engine.ForwardBackward(batch, 1);  // touches the memory
  std::vector<int64_t> ticks(fast::kParts, 0);
  engine.Measure(ticks.data());
  const auto start = std::chrono::steady_clock::now();
  const int64_t first_tick = fast::Ticks();
  engine.ForwardBackward(batch, 1);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const double per_tick = seconds.count() / static_cast<double>(fast::Ticks() - first_tick);
  at::set_num_threads(threads);
  double rest = seconds.count();
  std::vector<std::pair<std::string, double>> parts;
  for (int part = 0; part < fast::kParts; ++part) {
    parts.emplace_back(kNames[part], static_cast<double>(ticks[static_cast<size_t>(part)]) * per_tick);
    rest -= parts.back().second;
  }
  parts.emplace_back("the rest", rest);
  return parts;
}

}  // namespace sab::model
