#pragma once

#include "model/cuda/recall.cuh"
#include "model/cuda/sweep.cuh"

// Steps first .. last of a recurrence.
//
// A step of kind sab in three parts, between which the group meets: each block computes its units' cell from the whole
// h; then its units' query (and key) from the whole h^; then the blocks divide the rows, and a row's recall is one
// block's. A separable score needs no query, an LSTM neither.
namespace sab::model::cuda {

// What the input sends to a unit's gates, and its c before the step.
template <class T>
struct CellInputs {
  T i, f, g, o, c;
};

template <class T, class W, int R>
class ForwardSweep : public Sweep<T, W, R> {
 public:
  SAB_DEVICE explicit ForwardSweep(const SweepArguments<T>& arguments) : Sweep<T, W, R>(arguments) {}

  SAB_DEVICE void Run() {
    if (a.recalls) {
      RunWithRecall();
      return;
    }
    for (int64_t t = a.first; t <= a.last; ++t) {
      Cell(t);
      this->MeetGroup();
    }
  }

 private:
  using Sweep<T, W, R>::a;
  using Sweep<T, W, R>::first_row;
  using Sweep<T, W, R>::row_count;
  using Sweep<T, W, R>::first_unit;
  using Sweep<T, W, R>::rank;

  SAB_DEVICE void RunWithRecall() {
    Memories<T> memories(a);
    const int blocks = static_cast<int>(a.barrier.blocks);
    if (a.first == 1 && !a.replay && Warp() == 0) {
      for (int row = rank; row < row_count; row += blocks) memories.Reset(first_row + row);
    }
    for (int64_t t = a.first; t <= a.last; ++t) {
      Cell(t);
      this->MeetGroup();
      if (a.mlp) {
        Query(t);
        this->MeetGroup();
      }
      for (int row = rank; row < row_count; row += blocks) {
        memories.Recall(t, first_row + row, this->SlotOf(t), this->RecallSlotOf(t));
      }
      this->MeetGroup();
    }
  }

  SAB_DEVICE void Cell(int64_t t) {
    const int64_t slot = this->SlotOf(t);
    const bool key = a.mlp && !a.replay && !a.provisional && t > 1 && this->Writes(t - 1);
    for (int from = 0; from < row_count; from += R) {
      const T* before = a.h + this->State(slot, 0);
      // The loads of a thread's first unit are under way during the product.
      CellInputs<T> first{};
      const bool any =
          this->ForFirstUnit(from, [&](int unit, int r) { first = InputsOf(slot, unit, first_row + from + r); });
      const auto sums = this->MultiplyRows(before, a.hidden, from, 0, 4 * a.units);
      bool loaded = any;
      this->ForEachUnit(from, [&](int unit, int r) {
        const int row = first_row + from + r;
        CellOf(slot, unit, row, sums.Quad(unit, r), loaded ? first : InputsOf(slot, unit, row));
        loaded = false;
      });
      if (key) KeyOf((t - 1) / a.k_att, before, from);
    }
  }

  SAB_DEVICE CellInputs<T> InputsOf(int64_t slot, int unit, int row) const {
    const int64_t at = this->State(slot, row) + first_unit + unit;
    const T* gates = a.gates + 4 * this->State(slot, row) + first_unit + unit;
    return {gates[0], gates[a.hidden], gates[2 * a.hidden], gates[3 * a.hidden], a.c[at]};
  }

  SAB_DEVICE void CellOf(int64_t slot, int unit, int row, const Together<T, kColumns>& sums,
                         const CellInputs<T>& in) const {
    const int64_t at = this->State(slot, row) + first_unit + unit, after = at + int64_t{a.rows} * a.hidden;
    T* gates = a.gates + 4 * this->State(slot, row) + first_unit + unit;
    const T i = Sigmoid(in.i + sums.value[0]);
    const T f = Sigmoid(in.f + sums.value[1]);
    const T g = Tanh(in.g + sums.value[2]);
    const T o = Sigmoid(in.o + sums.value[3]);
    const T c = f * in.c + i * g;
    gates[0] = i;
    gates[a.hidden] = f;
    gates[2 * a.hidden] = g;
    gates[3 * a.hidden] = o;
    a.c[after] = c;
    (a.recalls ? a.hat + at : a.h + after)[0] = o * Tanh(c);
  }

  SAB_DEVICE void Query(int64_t t) {
    const int64_t slot = this->SlotOf(t);
    const T* hat = a.hat + this->State(slot, 0);
    for (int from = 0; from < row_count; from += R) {
      const auto sums = this->MultiplyRows(hat, a.hidden, from, a.query_offset, this->square_columns());
      this->ForEachUnit(from, [&](int unit, int r) {
        a.query[this->State(slot, first_row + from + r) + first_unit + unit] = sums(unit, r);
      });
      if (a.provisional && !a.replay && this->Writes(t)) KeyOf(t / a.k_att, hat, from);
    }
  }

  // This block's units of the keys of memory i, whose states are those at `states`.
  SAB_DEVICE void KeyOf(int64_t i, const T* states, int from) {
    const auto sums = this->MultiplyRows(states, a.hidden, from, a.memory_offset, this->square_columns());
    this->ForEachUnit(from, [&](int unit, int r) {
      const int64_t at = this->State(i, first_row + from + r) + first_unit + unit;
      const T key = sums(unit, r);
      a.key[at] = key;
      a.exp_key[at] = Exp(2 * key);
    });
  }
};

}  // namespace sab::model::cuda
