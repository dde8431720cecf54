#include "model/cuda/plan.h"

#include <algorithm>

namespace sab::model::cuda {
namespace {

// Above it, `recompute: auto` turns it on.
constexpr size_t kRecomputeBytes = size_t{8} << 30;

constexpr int64_t kLargestHidden = 4096;
constexpr int kWarpLanes = 32;

int64_t RoundUp(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

int64_t Divide(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

// Sums that Multiply leaves for `columns`.
int64_t PartialElements(int64_t columns, int threads, int rows_at_a_time) {
  const int64_t quads = columns / kColumns;
  return std::max<int64_t>(1, threads / quads) * columns * rows_at_a_time;
}

size_t LayOut(const ModelConfig& config, const NumberSizes& sizes, bool backward, SweepShape* shape) {
  const PackedSizes packed = PackedSizesOf(config, shape->units, backward);
  int64_t used = shape->resident ? RoundUp(packed.slice() * static_cast<int64_t>(sizes.weight), 16) : 0;
  const auto take = [&used](int* offset, int64_t count, size_t size) {
    *offset = static_cast<int>(used);
    used += RoundUp(count * static_cast<int64_t>(size), 16);
  };
  SharedLayout& layout = shape->layout;
  const int64_t square = RoundUp(shape->units, kColumns), columns = backward ? square : int64_t{4} * shape->units;
  const int warps = shape->threads / kWarpLanes;
  take(&layout.stage, kStageElements, sizes.state);
  take(&layout.partial,
       std::max(PartialElements(columns, shape->threads, shape->rows_at_a_time),
                PartialElements(square, shape->threads, shape->rows_at_a_time)),
       sizes.state);
  if (config.kind == Kind::kSab) {
    take(&layout.vectors, 3 * config.hidden_size, sizes.state);
    take(&layout.list, int64_t{warps} * kWarpLanes, sizes.state);
    take(&layout.few, 3 * kWarpLanes, sizes.state);
    take(&layout.list_index, int64_t{warps} * kWarpLanes, sizeof(int32_t));
    take(&layout.few_index, kWarpLanes, sizeof(int32_t));
  }
  return static_cast<size_t>(used);
}

SweepShape ShapeOf(const ModelConfig& config, int64_t rows, bool backward, const DeviceLimits& limits,
                   NumberSizes sizes, int group, bool resident) {
  SweepShape s;
  s.group = group;
  s.resident = resident;
  s.units = static_cast<int>(Divide(config.hidden_size, group));
  s.group_rows = static_cast<int>(Divide(rows, limits.processors / group));
  s.groups = static_cast<int>(Divide(rows, s.group_rows));
  const bool few = s.group_rows <= kFewRows;
  s.rows_at_a_time = few ? kFewRows : kManyRows;
  s.threads = few ? limits.threads : std::max(2 * kWarpLanes, limits.threads / 2);
  s.cluster = group > 1 && group <= limits.cluster_blocks;
  s.shared_bytes = LayOut(config, sizes, backward, &s);
  return s;
}

// Sizes of groups worth trying, ascending: those of clusters are powers of two.
bool IsGroupSize(int group, const DeviceLimits& limits) {
  return group > limits.cluster_blocks || (group & (group - 1)) == 0;
}

}  // namespace

PackedSizes PackedSizesOf(const ModelConfig& config, int units, bool backward) {
  const int64_t hidden = config.hidden_size, square = RoundUp(units, kColumns);
  PackedSizes sizes;
  sizes.gates = backward ? 4 * hidden * square : hidden * 4 * units;
  if (config.kind == Kind::kSab && config.score == Score::kMlp) sizes.square = hidden * square;
  return sizes;
}

SweepShape ChooseSweep(const ModelConfig& config, int64_t rows, bool backward, const DeviceLimits& limits,
                       NumberSizes sizes) {
  const int most = static_cast<int>(std::min<int64_t>(limits.processors, config.hidden_size));
  // Rows fewer than processors: several blocks a row, so that none is idle; beyond a cluster meeting costs more.
  const auto wanted = static_cast<int>(std::min<int64_t>(limits.processors / rows, 8));
  SweepShape found;
  bool any = false;
  for (int group = 1; group <= most && !(any && group > wanted); ++group) {
    if (!IsGroupSize(group, limits)) continue;
    const SweepShape shape = ShapeOf(config, rows, backward, limits, sizes, group, true);
    if (shape.shared_bytes > static_cast<size_t>(limits.shared_bytes)) continue;
    found = shape;
    any = true;
  }
  if (any) return found;
  const auto spread = static_cast<int>(std::min<int64_t>(limits.processors, Divide(config.hidden_size, kColumns)));
  return ShapeOf(config, rows, backward, limits, sizes, spread, false);
}

Plan MakePlan(const ModelConfig& config, int64_t rows, int64_t steps, bool backward, const DeviceLimits& limits) {
  Plan p;
  p.config = config;
  p.rows = rows;
  p.steps = steps;
  p.backward = backward;
  p.chunk = std::min(steps, limits.chunk);
  if (p.recalls()) p.memories = 1 + steps / config.k_att;
  if (p.attends()) p.memories = steps;
  p.recompute = backward && config.recompute == Recompute::kOn;
  if (backward && config.recompute == Recompute::kAuto) p.recompute = KeptBytes(p, 4) > kRecomputeBytes;
  return p;
}

KeptElements KeptElementsOf(const Plan& p) {
  KeptElements e;
  const int64_t state = p.rows * p.config.hidden_size, recalls = p.recall_slots() * p.rows;
  e.gates = 4 * p.slots() * state;
  e.c = e.h = (p.slots() + 1) * state;
  if (p.backward) e.row_state = 6 * state;
  if (p.recompute) e.starts = 2 * p.chunks() * state;
  if (p.recalls()) {
    e.hat = e.context = p.slots() * state;
    e.alpha = recalls * p.config.k_top;
    e.recalled = recalls * (p.config.k_top + 1);
    e.normaliser = recalls;
    e.memory = p.memories * state;
    if (p.backward) e.d_memory = e.memory;
    if (p.has_keys()) {
      e.query = p.slots() * state;
      e.key = e.exp_key = e.memory;
      e.rough = p.memories * p.rows;
      if (p.backward) e.d_key = e.memory;
    } else {
      e.salience = p.memories * p.rows;
      if (p.backward) e.d_salience = e.salience;
      e.leaders = kWarpLanes * p.rows;
    }
    if (p.is_salient()) e.places = p.config.memory_capacity * p.rows;
  }
  if (p.attends()) {
    e.memory = (p.steps + 1) * state;
    e.key = e.query = e.context = p.steps * state;
    e.normaliser = p.steps * p.rows;
    if (p.backward) {
      e.d_query = e.d_key = e.d_memory = e.d_context = e.d_states = p.steps * state;
      e.d_score_tiles = Divide(p.steps, kQueryTile) * state;
    }
  }
  return e;
}

size_t KeptBytes(const Plan& plan, size_t state_bytes) {
  const KeptElements e = KeptElementsOf(plan);
  const int64_t states = e.gates + e.c + e.h + e.hat + e.context + e.query + e.starts + e.alpha + e.normaliser +
                         e.memory + e.key + e.exp_key + e.rough + e.salience + e.leaders + e.d_memory + e.d_key +
                         e.d_salience + e.d_query + e.d_context + e.d_states + e.d_score_tiles + e.row_state;
  return static_cast<size_t>(states) * state_bytes +
         static_cast<size_t>(e.recalled + e.leaders + e.places) * sizeof(int32_t) +
         static_cast<size_t>(e.places) * sizeof(double);
}

namespace {

size_t Bytes(const Plan& plan, const TaskShape& shape) {
  const size_t number = plan.config.precision == Precision::kFp64 ? 8 : 4;
  const int64_t hidden = plan.config.hidden_size, places = plan.chunk * plan.rows, passes = plan.backward ? 2 : 1;
  // Of a chunk: the projected inputs before they are copied; or h and s side by side and, backward, their gradient and
  // those of h and s; logits, their logarithms and gradients.
  const int64_t features = plan.config.kind == Kind::kLstm ? hidden : 2 * hidden;
  const int64_t outputs = places * ((2 * passes - 1) * features + 2 * passes * shape.outputs);
  const int64_t inputs = places * 4 * hidden;
  const int64_t weights = passes * hidden * (4 * hidden + (plan.has_keys() ? 2 * hidden : 0));  // packed
  return KeptBytes(plan, number) + static_cast<size_t>(std::max(outputs, inputs) + weights) * number;
}

}  // namespace

size_t TrainingBytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps) {
  return Bytes(MakePlan(config, rows, steps, true, DeviceLimits()), shape);
}

size_t EvaluationBytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps) {
  return Bytes(MakePlan(config, rows, steps, false, DeviceLimits()), shape);
}

size_t GraphBytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps) {
  if (config.cuda_graphs == CudaGraphs::kOff) return 0;
  const size_t bytes = TrainingBytes(config, shape, rows, steps);
  return bytes <= kMostGraphBytes ? bytes : 0;
}

const char* WhyNotCuda(const ModelConfig& config) {
  if (config.hidden_size > kLargestHidden) return "hidden_size: above 4096 it is the reference's on a GPU";
  if (config.kind != Kind::kSab) return nullptr;
  if (config.recall == Recall::kAll || config.recall == Recall::kRandom)
    return "recall: all and random are the reference's";
  if (config.k_top > kMostRecalled) return "k_top: above 31 it is the reference's on a GPU";
  if (config.memory_capacity == 0) return nullptr;
  if (config.score == Score::kSeparable) return "memory.capacity: with score separable it is the reference's";
  if (config.recall == Recall::kLast && config.memory_policy == MemoryPolicy::kSalient)
    return "memory.policy: salient with recall last is the reference's";
  return nullptr;
}

}  // namespace sab::model::cuda
