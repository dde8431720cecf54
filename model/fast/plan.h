#pragma once

#include <time.h>

#include <cstddef>
#include <cstdint>

#include "model/config.h"

// How a pass is cut up, in plain numbers, and the plain structs that the engine hands to the kernels. No torch here.
//
// Rows of a batch are independent, so a pass is cut into blocks of rows; one thread takes a block through the whole
// sequence, forward and backward, in a workspace of its own. The cut depends on the batch alone, never on the number of
// threads, and the blocks' gradients are added in the order of the blocks: so neither do the results.
namespace sab::model::fast {

// Internal buffers round the hidden and output sizes up to this many, with zero weights: no kernel has a tail.
inline constexpr int64_t kPad = 16;

// Sums of outer products take so many rows at a time: a panel of them stays in the first-level cache.
inline constexpr int64_t kOuterDepth = 128;

// Files compiled for different instruction sets include this one: nothing here may be left to the linker to merge.
#define SAB_PLAN_INLINE __attribute__((always_inline))

struct Plan {
  ModelConfig config;
  TaskShape shape;
  int64_t rows = 0;        // of a block at most
  int64_t steps = 0;       // T
  int64_t hidden = 0;      // H, rounded up
  int64_t outputs = 0;     // O, rounded up
  int64_t inputs = 0;      // channels of float input; 0 for symbols
  int64_t symbols = 0;     // vocabulary; 0 for float input
  int64_t memories = 0;    // ever written, m_1 included; 0 for kind lstm
  int64_t chunk = 0;       // steps whose outputs and weight gradients are computed together
  bool backward = false;   // a training pass
  bool recompute = false;  // keep only chunks' first states, and compute the gates again going backward

  SAB_PLAN_INLINE bool attends() const { return config.kind != Kind::kLstm; }
  SAB_PLAN_INLINE bool recalls() const { return config.kind == Kind::kSab; }
  SAB_PLAN_INLINE bool has_keys() const {
    return config.kind == Kind::kAttention || (recalls() && config.score == Score::kMlp);
  }
  SAB_PLAN_INLINE bool is_separable() const { return recalls() && config.score == Score::kSeparable; }
  // Steps of which gates and states are kept at a time.
  SAB_PLAN_INLINE int64_t slots() const { return backward && !recompute ? steps : chunk; }
  SAB_PLAN_INLINE int64_t recall_slots() const { return backward ? steps : chunk; }
  SAB_PLAN_INLINE int64_t chunks() const { return (steps + chunk - 1) / chunk; }
  // Memories that step t (from 1) reads.
  SAB_PLAN_INLINE int64_t MemoriesAt(int64_t t) const {
    return config.kind == Kind::kAttention ? t : 1 + (t - 1) / config.k_att;
  }
  // Of those, how many a bounded memory still holds.
  SAB_PLAN_INLINE int64_t LiveAt(int64_t t) const {
    const int64_t written = MemoriesAt(t);
    return bounded() && written > config.memory_capacity ? config.memory_capacity : written;
  }
  // Room for a state or for the recalled memories' scores of one row.
  SAB_PLAN_INLINE int64_t row_scratch() const {
    const int64_t recalled = (config.k_top + 1 + kPad - 1) / kPad * kPad;
    return attends() && recalled > hidden ? recalled : hidden;
  }
  SAB_PLAN_INLINE bool bounded() const { return config.memory_capacity > 0; }
  SAB_PLAN_INLINE int64_t live_limit() const {
    return bounded() && config.memory_capacity < memories ? config.memory_capacity : memories;
  }
  // Whether step t picks the best k_top of what it reads; otherwise it weighs RecalledAt(t) memories by `dense`.
  SAB_PLAN_INLINE bool IsSparse(int64_t t) const { return config.recall == Recall::kTop && LiveAt(t) > config.k_top; }
  SAB_PLAN_INLINE int64_t RecalledAt(int64_t t) const {
    const int64_t live = LiveAt(t);
    return live < config.k_top || recalls_all() ? live : config.k_top;
  }
  SAB_PLAN_INLINE bool recalls_all() const { return config.recall == Recall::kAll; }
  // Places for keys and for gradients of memories.
  SAB_PLAN_INLINE int64_t places() const { return bounded() ? (live_limit() + kPad - 1) / kPad * kPad : memories; }
};

// Of one pass over `rows` x `steps`.
Plan MakePlan(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps, bool backward);

// Buffers of one block in work. Shapes with R rows, H = plan.hidden, O = plan.outputs, L = plan.chunk, N =
// plan.memories; those that a plan does not need are null.
template <class T>
struct Workspace {
  T* gates = nullptr;   // (slots, R, 4H)   i, f, g, o after their nonlinearities; going backward dL/d(their arguments)
  T* c = nullptr;       // (slots + 1, R, H) slot s holds the state before the step of slot s
  T* h = nullptr;       // (slots + 1, R, H)
  T* q = nullptr;       // (slots, R, H)    W_q h^; going backward its gradient
  T* starts = nullptr;  // (chunks, 2, R, H) h and c before each chunk, with recompute

  int32_t* recalled = nullptr;  // (recall_slots, R, k_top + 1) memory indices, best first; not for recall: all
  T* alpha = nullptr;           // (recall_slots, R, k_top)
  T* normaliser = nullptr;      // (recall_slots, R)   Z of the sparse phase; recall: all see MeasureAll

  // S is the number of memories that are live at most. Bounded, keys and gradients are kept for these alone: P is then
  // S rounded up to 16, otherwise N.
  T* memory = nullptr;             // (N, R, H)
  T* key = nullptr;                // (P, R, H)       K_i = W_m m_i
  T* exp_key = nullptr;            // (R, ceil(S/16), H, 16)   e^2K of what is live, sixteen side by side; recall: top
  int32_t* place = nullptr;        // (N, R) bounded memory: where each memory is or was, -1: it was not kept
  int32_t* evicted = nullptr;      // (N, R) which memory it displaced there, -1: none
  int32_t* slot_memory = nullptr;  // (R, P) which memory is in a place
  int32_t* live_order = nullptr;   // (R, P) what is live, in the order of writing
  double* credit = nullptr;        // (R, P) sum of alpha of what is in a place; for policy salient
  T* d_memory = nullptr;           // (P, R, H)
  T* d_key = nullptr;              // (P, R, H)       in exp_key's place, which is not needed going backward
  T* chunk_d_key = nullptr;        // (L / k_att + 1, R, H) bounded memory: those of the chunk's memories
  T* key_scratch = nullptr;        // (2, R, H)       bounded memory
  char* touched = nullptr;         // (N)             whether d_memory or the score's gradient has been begun
  T* salience = nullptr;           // (N, R)          w_m . tanh(m_i)
  T* d_salience = nullptr;         // (N, R)
  T* leaders = nullptr;            // (R, k_top + 1)  saliences of the running best, with `leader_index`
  int32_t* leader_index = nullptr;
  T* key_limit = nullptr;  // (R)             largest |K| so far

  T* hat = nullptr;      // (L, R, H) state before recall
  T* context = nullptr;  // (L, R, H) s
  T* d_out_h = nullptr;  // (L, R, H) what the outputs send to h and s
  T* d_out_s = nullptr;  // (L, R, H)
  T* logits = nullptr;   // (L, R, O); then dL/dlogits
  T* x = nullptr;        // (L, R, I) the chunk's float inputs

  T* d_h = nullptr;               // (R, H)
  T* d_c = nullptr;               // (R, H)
  T* d_hat = nullptr;             // (R, H)
  T* scores = nullptr;            // (S rounded up to 16)
  int32_t* candidates = nullptr;  // (S rounded up to 16)
  T* d_score = nullptr;           // (S rounded up to 16) recall: all
  T* query = nullptr;             // (4, row_scratch)
  T* ones = nullptr;              // (16)
  T* outer = nullptr;             // scratch of AddOuterProducts

  // Kind attention. P is T rounded up to 16; row_* serve one row of the block at a time, tile_* sixteen of its queries.
  T* states = nullptr;                 // (T + 1, R, H) the zero state and every h_t
  T* contexts = nullptr;               // (T, R, H) s_t; going backward its gradient
  T* d_states = nullptr;               // (T + 1, R, H) what outputs and attention send to h_t
  T* row_memory = nullptr;             // (P, H)
  T* row_memory_panels = nullptr;      // packed (P) x (H)
  T* row_transposed_panels = nullptr;  // packed (H) x (P); training only
  T* row_key = nullptr;                // (P, H)
  T* row_exp_key = nullptr;            // (P/16, H, 16)
  T* row_query = nullptr;              // (P, H); going backward its gradient
  T* row_d_key = nullptr;              // (P/16, H, 16), then (P, H) in row_key
  T* row_d_memory = nullptr;           // (P, H)
  T* tile_alpha = nullptr;             // (16, P)
  T* tile_d = nullptr;                 // (16, P)
  T* tile_state = nullptr;             // (16, H)

  size_t bytes = 0;
};

// Lays the workspace out from `base` (64-byte aligned); with a null base only `bytes` means anything.
template <class T>
Workspace<T> LayOutWorkspace(const Plan& plan, char* base);

// The network as the kernels read it: transposed, padded and packed in panels. Made once per pass.
template <class T>
struct PackedNet {
  T* w_hh = nullptr;         // panels of W_hh^T: (H) x (4H)
  T* w_hh_back = nullptr;    // panels of W_hh: (4H) x (H)
  T* input_gates = nullptr;  // (I or V, 4H): column i of W_ih; for symbols with the bias added
  T* bias = nullptr;         // (4H) b_ih + b_hh
  T* w_m = nullptr;          // panels of W_m^T
  T* w_m_back = nullptr;     // panels of W_m
  T* w_q = nullptr;
  T* w_q_back = nullptr;
  T* score = nullptr;        // (H) w; separable: w_m
  T* query_score = nullptr;  // (H) separable: w_q
  T* v_h = nullptr;          // panels of V_h^T: (H) x (O)
  T* v_h_back = nullptr;     // panels of V_h: (O) x (H)
  T* v_s = nullptr;
  T* v_s_back = nullptr;
  T* out_bias = nullptr;   // (O); beyond the real outputs a large negative number for a cross-entropy
  T score_weight_sum = 0;  // sum of w
  T score_error = 0;       // ScoreError(w) of score.h

  size_t bytes = 0;
};

template <class T>
PackedNet<T> LayOutNet(const Plan& plan, char* base);

// Gradients of one block, padded, in one flat buffer of `count` elements.
template <class T>
struct Gradients {
  T* w_hh = nullptr;         // (H, 4H): transposed
  T* input_gates = nullptr;  // (I or V, 4H): transposed
  T* bias = nullptr;         // (4H)
  T* w_m = nullptr;          // (H, H)
  T* w_q = nullptr;          // (H, H)
  T* score = nullptr;        // (H) of w; separable: w_m
  T* query_score = nullptr;  // (H) separable: w_q
  T* v_h = nullptr;          // (O, H)
  T* v_s = nullptr;          // (O, H)
  T* out_bias = nullptr;     // (O)
  T* base = nullptr;
  int64_t count = 0;
};

template <class T>
Gradients<T> LayOutGradients(const Plan& plan, T* base);

// The parameters as they lie in a ParameterSet; null where the network has none. input_gates: (I or V, 4H unpadded),
// W_ih^T for float inputs and one-hot symbols, embedding * W_ih^T for embedded ones.
template <class T>
struct NetView {
  const T* w_hh = nullptr;
  const T* input_gates = nullptr;
  const T* b_ih = nullptr;
  const T* b_hh = nullptr;
  const T* w_m = nullptr;
  const T* w_q = nullptr;
  const T* score = nullptr;
  const T* query_score = nullptr;
  const T* v = nullptr;
  const T* out_bias = nullptr;
};

// What a pass spends its time on, for the profile.
enum Part {
  kCellProducts,
  kCellPointwise,
  kQueries,
  kRecall,
  kKeys,
  kOutputs,
  kRecallBackward,
  kCellBackward,
  kWeightGradients,
  kAttention,
  kParts
};

// A clock that costs next to nothing, of a constant rate.
SAB_PLAN_INLINE inline int64_t Ticks() {
#if defined(__x86_64__)
  return static_cast<int64_t>(__builtin_ia32_rdtsc());
#else
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{1000000000} * now.tv_sec + now.tv_nsec;
#endif
}

// Where a block's pass stands between two chunks.
struct Place {
  int64_t forward = 0;  // chunks that have gone forward
  int64_t left = -1;    // chunks that have yet to go back; -1: none has begun to
  int64_t written = 1;  // memories whose writes are in force
  bool live = false;    // going backward: a gradient is on its way
};

// Lets a training pass be left between two chunks, and taken up again there.
struct Pauses {
  void* context = nullptr;
  // Fills in a workspace that is ready for the first step with what was saved at *place. False: nothing was saved.
  bool (*resume)(void* context, Place* place) = nullptr;
  // Between two chunks; all that the rest of the pass depends on is in the workspace, gradients, sums and `place`.
  // False: the pass is to be left.
  bool (*between)(void* context, const Place& place) = nullptr;
};

// The rows of one block. Pointers are to its first row; rows lie `steps` apart.
template <class T>
struct BlockInput {
  int64_t rows = 0;
  const T* x = nullptr;               // (rows, T, I)
  const int64_t* symbols = nullptr;   // (rows, T)
  const int64_t* targets = nullptr;   // (rows, T) or (rows); null: outputs only
  const T* target_values = nullptr;   // (rows, real O)
  const int64_t* lengths = nullptr;   // (rows); null: all T
  const uint64_t* streams = nullptr;  // (rows) randomness of recall: random
  T* outputs = nullptr;               // (rows, T, real O), written when not null (evaluation only)
  int64_t metric_from = 0;
  double loss_scale = 0;
  int64_t* ticks = nullptr;        // (kParts) of Ticks(), added to; null: not measured
  const Pauses* pauses = nullptr;  // training, but not kind attention; null: the pass goes on to its end

  SAB_PLAN_INLINE int64_t length(int64_t row, int64_t steps) const { return lengths != nullptr ? lengths[row] : steps; }
};

// PassSums without torch.
struct BlockSums {
  double loss_sum = 0;
  int64_t loss_count = 0;
  double scored_loss_sum = 0;
  int64_t scored_count = 0;
  int64_t correct_count = 0;
  int64_t guarded_count = 0;
  double max_hidden_square = 0;
};

// One compiled instruction set.
template <class T>
struct Kernels {
  const char* name;
  // wide: scratch of max(4H, O) * H elements.
  void (*pack)(const Plan& plan, const NetView<T>& net, PackedNet<T>* packed, T* wide);
  // Adds to gradients and sums. False: it was left in the middle.
  bool (*train)(const Plan& plan, const PackedNet<T>& net, const BlockInput<T>& input, const Workspace<T>& work,
                const Gradients<T>& gradients, BlockSums* sums);
  void (*evaluate)(const Plan& plan, const PackedNet<T>& net, const BlockInput<T>& input, const Workspace<T>& work,
                   BlockSums* sums);
  // Element-wise over count (a multiple of 16), for tests: function 0 exp, 1 tanh, 2 sigmoid.
  void (*apply)(int function, const T* x, T* y, int64_t count);
};

// The best that this machine runs; SAB_ENGINE_ISA=generic|avx2|avx512 in the environment asks for less. Throws
// std::invalid_argument when it asks for what this machine does not have.
template <class T>
const Kernels<T>& BestKernels();
// nullptr when this build or machine has no such set.
template <class T>
const Kernels<T>* KernelsNamed(const char* name);

}  // namespace sab::model::fast
