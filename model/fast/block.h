#pragma once

#include "model/fast/gemm.h"
#include "model/fast/plan.h"
#include "model/fast/score.h"

namespace sab::model::fast::SAB_ISA {

// What every part of a block's pass works on.
template <class T>
struct Block {
  const Plan& plan;
  const PackedNet<T>& net;
  const BlockInput<T>& in;
  const Workspace<T>& work;
  const Gradients<T>* gradients;  // nullptr: evaluation
  BlockSums* sums;

  int64_t rows() const { return in.rows; }
  int64_t hidden() const { return plan.hidden; }
  int64_t state() const { return in.rows * plan.hidden; }  // elements of one (R, H)
  Panels<T> Square(const T* packed) const { return {packed, plan.hidden, plan.hidden}; }
  bool keeps_all_steps() const { return plan.slots() == plan.steps; }
  // Where step t (from 1) keeps its gates; its state before the step is slot `Slot(t)` of c and h, after it the next.
  int64_t Slot(int64_t t) const { return keeps_all_steps() ? t - 1 : (t - 1) % plan.chunk; }
  int64_t InChunk(int64_t t) const { return (t - 1) % plan.chunk; }
  bool Truncates(int64_t t) const {
    return plan.config.kind != Kind::kAttention && plan.config.k_trunc > 0 && t % plan.config.k_trunc == 0;
  }
  bool Ends(int64_t row, int64_t t) const { return in.length(row, plan.steps) < t; }  // t lies beyond the row's end
};

// Adds its lifetime to a part of the profile, where one is taken.
class Timed {
 public:
  SAB_INLINE Timed(int64_t* ticks, Part part) : ticks_(ticks), part_(part), start_(ticks != nullptr ? Ticks() : 0) {}
  SAB_INLINE ~Timed() {
    if (ticks_ != nullptr) ticks_[part_] += Ticks() - start_;
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  int64_t* const ticks_;
  const Part part_;
  const int64_t start_;
};

}  // namespace sab::model::fast::SAB_ISA
