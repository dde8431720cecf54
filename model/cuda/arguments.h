#pragma once

#include <cstdint>

#include "model/cuda/device.h"
#include "model/cuda/plan.h"

// What kernels are given: plain structs of numbers and pointers to global memory. Shapes with B rows, H hidden units, N
// memories, S slots (steps whose states are kept), all without gaps. Steps t count from 1.
namespace sab::model::cuda {

// One sweep over steps first .. last, forward or backward.
template <class T>
struct SweepArguments {
  // The launch: see SweepShape.
  GroupBarrier barrier;  // its counter is group 0's; the others' follow
  int rows = 0;          // B
  int64_t memories = 0;  // N
  int hidden = 0;        // H
  int units = 0;
  int group_rows = 0;
  bool resident = true;
  SharedLayout layout;
  int64_t slice = 0;          // elements of one block's packed weights
  int64_t query_offset = 0;   // of W_q in a slice
  int64_t memory_offset = 0;  // of W_m

  // The piece of the sequence.
  int64_t first = 1;
  int64_t last = 1;
  int64_t first_slot = 0;         // slot of step `first`
  int64_t first_recall_slot = 0;  // its slot in recalled, alpha and normaliser
  bool replay = false;            // take recalls from there instead of scoring

  // Settings; see ModelConfig.
  bool recalls = false;
  bool mlp = true;
  bool top = true;  // recall top; else last
  bool softmax = true;
  bool provisional = true;
  bool truncate_both = true;
  bool mental_updates = true;
  bool detach_scores = false;
  bool salient = false;
  int k_trunc = 0;
  int k_att = 1;
  int k_top = 1;
  int capacity = 0;  // 0: unbounded
  int recent = 0;
  T tie_guard = 0;

  const void* weights = nullptr;   // packed slices, one a block of a group
  const T* score = nullptr;        // (H) w; separable: w_m
  const T* query_score = nullptr;  // (H) separable: w_q

  T* gates = nullptr;    // (S,B,4H) in: W_ih x + b; out: i, f, g, o; going backward dL/d(their arguments)
  T* c = nullptr;        // (S+1,B,H) slot s holds the state before the step of slot s
  T* h = nullptr;        // (S+1,B,H)
  T* hat = nullptr;      // (S,B,H)  state before recall
  T* context = nullptr;  // (S,B,H)  s_t
  T* query = nullptr;    // (S,B,H)  W_q h^; going backward its gradient

  int32_t* recalled = nullptr;  // (recall slots,B,k_top+1) best first
  T* alpha = nullptr;           // (recall slots,B,k_top)
  T* normaliser = nullptr;      // (recall slots,B) Z of the sparse phase, otherwise infinite

  T* memory = nullptr;        // (N,B,H)
  T* key = nullptr;           // (N,B,H) W_m m_i
  T* exp_key = nullptr;       // (N,B,H) e^2K
  T* rough = nullptr;         // (B,N) scores that narrow the choice, by place
  T* salience = nullptr;      // (N,B) separable: w_m . tanh(m_i)
  T* leader_score = nullptr;  // (B,32) separable: the running best, with leader_index
  int32_t* leader_index = nullptr;
  int32_t* place_memory = nullptr;  // (B,capacity) salient: which memory a place holds
  double* credit = nullptr;         // (B,capacity) salient: its sum of alpha

  // Going backward.
  const T* d_out_h = nullptr;  // (last-first+1,B,H) what the outputs send to h_t
  const T* d_out_s = nullptr;  // (last-first+1,B,H) and to s_t
  T* d_memory = nullptr;       // (N,B,H)
  T* d_key = nullptr;          // (N,B,H)
  T* d_salience = nullptr;     // (N,B)
  T* d_h = nullptr;            // (B,H) of h before the present step, as far as the cell sends it
  T* d_c = nullptr;            // (B,H)
  T* d_hat = nullptr;          // (B,H)
  T* d_write = nullptr;        // (B,H) W_m^T d_key of the memory written at the present step
  T* d_score = nullptr;        // (B,H) of the score's weights, a row's share each
  T* d_query_score = nullptr;  // (B,H)
};

// Full attention of B rows over T states: query t (from 1) reads states 0 .. t-1.
template <class T>
struct AttentionArguments {
  int rows = 0;
  int hidden = 0;
  int steps = 0;
  bool softmax = true;
  const T* score = nullptr;   // (H)
  const T* memory = nullptr;  // (T+1,B,H) the zero state and every h_t
  const T* key = nullptr;     // (T,B,H)
  const T* query = nullptr;   // (T,B,H)
  T* context = nullptr;       // (T,B,H)
  T* normaliser = nullptr;    // (T,B) log of the sum of exponentials

  const T* d_context = nullptr;  // (T,B,H)
  T* d_query = nullptr;          // (T,B,H)
  T* d_key = nullptr;            // (T,B,H)
  T* d_memory = nullptr;         // (T,B,H)
  T* d_score = nullptr;          // (query tiles,B,H) shares of the score's weights
};

// The part of the arguments that plan and shape say; pieces and pointers are left to be filled in.
template <class T>
SweepArguments<T> MakeArguments(const Plan& plan, const SweepShape& shape, bool backward) {
  const ModelConfig& c = plan.config;
  const PackedSizes packed = PackedSizesOf(c, shape.units, backward);
  SweepArguments<T> a;
  a.barrier.blocks = static_cast<unsigned>(shape.group);
  a.barrier.cluster = shape.cluster;
  a.rows = static_cast<int>(plan.rows);
  a.memories = plan.memories;
  a.hidden = static_cast<int>(c.hidden_size);
  a.units = shape.units;
  a.group_rows = shape.group_rows;
  a.resident = shape.resident;
  a.layout = shape.layout;
  a.slice = packed.slice();
  a.query_offset = packed.gates;
  a.memory_offset = packed.gates + packed.square;
  a.recalls = plan.recalls();
  a.mlp = c.score == Score::kMlp;
  a.top = c.recall == Recall::kTop;
  a.softmax = c.dense == Dense::kSoftmax;
  a.provisional = c.memory_state == MemoryState::kProvisional;
  a.truncate_both = c.truncate == Truncate::kBoth;
  a.mental_updates = c.mental_updates;
  a.detach_scores = c.detach_scores;
  a.salient = plan.is_salient();
  a.k_trunc = plan.attends() ? 0 : static_cast<int>(c.k_trunc);
  a.k_att = static_cast<int>(c.k_att);
  a.k_top = static_cast<int>(c.k_top);
  a.capacity = static_cast<int>(c.memory_capacity);
  a.recent = static_cast<int>(c.memory_recent);
  a.tie_guard = static_cast<T>(c.tie_guard);
  return a;
}

}  // namespace sab::model::cuda
