#pragma once

#include <cstddef>
#include <cstdint>

#include "model/config.h"

// How the CUDA engine cuts a pass up, in plain numbers. No torch and no CUDA here: the coordinator links it.
//
// The rows of a batch are independent, so nothing ever waits for the whole GPU. A *group* of blocks, one on each
// multiprocessor, takes some rows through the sequence in one kernel; each block owns a slice of the hidden units and
// holds that slice's rows of W_hh, W_q and W_m in its shared memory, where they stay. The blocks of a group exchange
// states through global memory (which is to say the second-level cache) and meet two or three times a step. Where even
// all multiprocessors together cannot hold the weights, blocks read them from the second-level cache instead.
namespace sab::model::cuda {

inline constexpr int kColumns = 4;           // of a product that one thread computes at a time
inline constexpr int kStageElements = 2048;  // of a product's left side that a block holds at a time
// From so many memories for each that is looked for, the choice is narrowed by rough scores before exact ones.
inline constexpr int kNarrowFrom = 4;
inline constexpr int kMostRecalled = 31;  // k_top at most: the best k_top + 1 lie in the lanes of a warp
inline constexpr int kQueryTile = 8;      // queries of full attention that a block handles at a time
inline constexpr int kMemoryTile = 32;    // and memories

// What a GPU has.
struct DeviceLimits {
  int processors = 132;
  int shared_bytes = 227 << 10;  // a block may have
  int cluster_blocks = 8;        // that may form a cluster; 1 before sm_90
  int threads = 512;             // of a block: 512, fewer in the emulator
  int64_t chunk = 256;           // steps of one kernel at most
};

// Rows that a thread computes at a time: a constant of compiled kernels.
inline constexpr int kFewRows = 2;
inline constexpr int kManyRows = 8;

// Where things lie in a block's shared memory, behind the weights: offsets in bytes.
struct SharedLayout {
  int stage = 0;       // (kStageElements) of a product's left side
  int partial = 0;     // sums of a product, a share of the terms each
  int vectors = 0;     // (3,H) of the row in work
  int list = 0;        // (warps,32) scores of the best that each warp found
  int few = 0;         // (3,32) scores, weights and their gradients of the recalled memories
  int list_index = 0;  // (warps,32) int32
  int few_index = 0;   // (32) int32
};

// How one kernel over a piece of the sequence is launched.
struct SweepShape {
  int group = 1;       // blocks of a group
  int group_rows = 1;  // rows of a group
  int groups = 1;
  int units = 1;  // hidden units of a block
  int rows_at_a_time = kFewRows;
  int threads = 512;
  bool resident = true;  // weights in shared memory
  bool cluster = false;  // a group is a cluster
  size_t shared_bytes = 0;
  SharedLayout layout;

  int blocks() const { return group * groups; }
};

// Sizes of numbers in bytes: of states and sums, and of the weights held in shared memory.
struct NumberSizes {
  size_t state = 4;
  size_t weight = 4;
};

// The fewest blocks a group can have with its weights resident, more where the batch leaves processors idle.
SweepShape ChooseSweep(const ModelConfig& config, int64_t rows, bool backward, const DeviceLimits& limits,
                       NumberSizes sizes);

// Elements of the weights packed for a sweep of such a shape (product.cuh): one slice a block, in the order W_hh, W_q,
// W_m.
struct PackedSizes {
  int64_t gates = 0;   // of one block's slice of W_hh
  int64_t square = 0;  // of one block's slice of W_q or W_m; 0 where the network has none
  int64_t slice() const { return gates + 2 * square; }
};
PackedSizes PackedSizesOf(const ModelConfig& config, int units, bool backward);

struct Plan {
  ModelConfig config;
  int64_t rows = 0;        // B
  int64_t steps = 0;       // T
  int64_t memories = 0;    // ever written, m_1 included; kind attention: the states read, T
  int64_t chunk = 0;       // steps of one kernel, whose outputs are computed together
  bool backward = false;   // a training pass
  bool recompute = false;  // keep only chunks' first states, and compute the gates again going backward

  bool recalls() const { return config.kind == Kind::kSab; }
  bool attends() const { return config.kind == Kind::kAttention; }
  bool has_keys() const { return recalls() && config.score == Score::kMlp; }
  bool is_separable() const { return recalls() && config.score == Score::kSeparable; }
  bool is_salient() const { return config.memory_capacity > 0 && config.memory_policy == MemoryPolicy::kSalient; }
  int64_t chunks() const { return (steps + chunk - 1) / chunk; }
  int64_t slots() const { return backward && !recompute ? steps : chunk; }
  int64_t recall_slots() const { return backward ? steps : chunk; }
};

Plan MakePlan(const ModelConfig& config, int64_t rows, int64_t steps, bool backward, const DeviceLimits& limits);

// Elements of the tensors that a pass keeps on the device; a number for each tensor of SweepArguments and
// AttentionArguments that the plan needs.
struct KeptElements {
  // Of the state's type.
  int64_t gates = 0, c = 0, h = 0, hat = 0, context = 0, query = 0, starts = 0;
  int64_t alpha = 0, normaliser = 0, memory = 0, key = 0, exp_key = 0, rough = 0, salience = 0, leaders = 0;
  int64_t d_memory = 0, d_key = 0, d_salience = 0, d_query = 0, d_context = 0, d_states = 0, d_score_tiles = 0;
  int64_t row_state = 0;  // (B,H): d_h, d_c, d_hat, d_write and the two shares of the score's weights
  // Of their own type.
  int64_t recalled = 0, places = 0;
};
KeptElements KeptElementsOf(const Plan& plan);
size_t KeptBytes(const Plan& plan, size_t state_bytes);

// Bytes that one training step of `rows` x `steps` takes on the device, at its peak and above parameters, gradients and
// the batch: exact for what the engine keeps from step to step; the inputs' and outputs' share of a chunk is counted as
// LibTorch's operations take it.
size_t TrainingBytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps);

// The same for an evaluation.
size_t EvaluationBytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps);

// Training passes that take more are not replayed from a graph: their kernels are long, and a graph keeps their memory.
inline constexpr size_t kMostGraphBytes = size_t{1} << 30;

// Bytes that the graph of such passes keeps, at most, for as long as it lives: recorded operations allocate as plain
// ones do, from memory that nothing else uses. Evaluations and plain passes need theirs besides, as the trainer's
// prediction (common/spec/cost.cc) counts them. 0: there is no graph.
size_t GraphBytes(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps);

// Why the CUDA engine leaves these settings to the reference, or null when it computes them.
const char* WhyNotCuda(const ModelConfig& config);

}  // namespace sab::model::cuda
