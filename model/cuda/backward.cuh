#pragma once

#include "model/cuda/recall_backward.cuh"
#include "model/cuda/sweep.cuh"

// Steps last .. first of a recurrence, backward: leaves the gradients of the gates' arguments, of the queries and of
// the keys, from which the weights' are large matrix products.
//
// A step of kind sab in three parts, as forward: the row's recall needs the whole gradient of h, the cell that of h^.
namespace sab::model::cuda {

// A unit's gates, its c before and after the step, and the gradient of c after.
template <class T>
struct CellValues {
  T i, f, g, o, c_before, c, d_c;
};

template <class T, class W, int R>
class BackwardSweep : public Sweep<T, W, R> {
 public:
  SAB_DEVICE explicit BackwardSweep(const SweepArguments<T>& arguments) : Sweep<T, W, R>(arguments) {}

  SAB_DEVICE void Run() {
    if (a.recalls) {
      RunWithRecall();
      return;
    }
    for (int64_t t = a.last; t >= a.first; --t) {
      for (int from = 0; from < row_count; from += R) {
        const int64_t chunk_slot = t - a.first;
        this->ForEachUnit(from, [&](int unit, int r) {
          const int row = first_row + from + r;
          const int64_t j = first_unit + unit;
          Cell(t, row, unit, ValuesOf(t, row, unit),
               a.d_h[this->State(0, row) + j] + a.d_out_h[this->State(chunk_slot, row) + j]);
        });
      }
      this->MeetGroup();
      Carry(t);
      SyncBlock();
    }
  }

 private:
  using Sweep<T, W, R>::a;
  using Sweep<T, W, R>::first_row;
  using Sweep<T, W, R>::row_count;
  using Sweep<T, W, R>::first_unit;
  using Sweep<T, W, R>::rank;

  SAB_DEVICE void RunWithRecall() {
    MemoriesBackward<T> memories(a);
    const int blocks = static_cast<int>(a.barrier.blocks);
    for (int64_t t = a.last; t >= a.first; --t) {
      if (a.mlp && a.mental_updates && !a.detach_scores && this->Writes(t)) WriteGradient(t / a.k_att);
      this->MeetGroup();
      for (int row = rank; row < row_count; row += blocks) {
        memories.Backward(t, first_row + row, this->SlotOf(t), this->RecallSlotOf(t));
      }
      this->MeetGroup();
      CellsBehindQueries(t);
      this->MeetGroup();
      Carry(t);
    }
  }

  // d_write = W_m^T d_key of memory i, this block's units.
  SAB_DEVICE void WriteGradient(int64_t i) {
    for (int from = 0; from < row_count; from += R) {
      const auto sums =
          this->MultiplyRows(a.d_key + this->State(i, 0), a.hidden, from, a.memory_offset, this->square_columns());
      this->ForEachUnit(from, [&](int unit, int r) {
        a.d_write[this->State(0, first_row + from + r) + first_unit + unit] = sums(unit, r);
      });
    }
  }

  // Adds what goes through the query to the gradient of h^, and goes on through the cell.
  SAB_DEVICE void CellsBehindQueries(int64_t t) {
    const bool through_query = a.mlp && !a.detach_scores;
    for (int from = 0; from < row_count; from += R) {
      const T* d_query = a.query + this->State(this->SlotOf(t), 0);
      CellValues<T> first{};
      bool loaded = this->ForFirstUnit(from, [&](int unit, int r) { first = ValuesOf(t, first_row + from + r, unit); });
      Sums<T, R> sums{};
      if (through_query) sums = this->MultiplyRows(d_query, a.hidden, from, a.query_offset, this->square_columns());
      this->ForEachUnit(from, [&](int unit, int r) {
        const int row = first_row + from + r;
        const T d_hat = LoadRemote(a.d_hat + this->State(0, row) + first_unit + unit);
        const CellValues<T> values = loaded ? first : ValuesOf(t, row, unit);
        loaded = false;
        Cell(t, row, unit, values, through_query ? d_hat + sums(unit, r) : d_hat);
      });
    }
  }

  SAB_DEVICE CellValues<T> ValuesOf(int64_t t, int row, int unit) const {
    const int64_t slot = this->SlotOf(t), j = first_unit + unit;
    const T* gates = a.gates + 4 * this->State(slot, row) + j;
    return {gates[0],
            gates[a.hidden],
            gates[2 * a.hidden],
            gates[3 * a.hidden],
            a.c[this->State(slot, row) + j],
            a.c[this->State(slot + 1, row) + j],
            a.d_c[this->State(0, row) + j]};
  }

  // Gates: values in, gradients of their arguments out. d_c: of c in, of the c before out.
  SAB_DEVICE void Cell(int64_t t, int row, int unit, const CellValues<T>& v, T d_hat) const {
    const int64_t j = first_unit + unit;
    T* gates = a.gates + 4 * this->State(this->SlotOf(t), row) + j;
    const T tanh_c = Tanh(v.c);
    const T d_c = v.d_c + d_hat * v.o * (1 - tanh_c * tanh_c);
    gates[0] = d_c * v.g * v.i * (1 - v.i);
    gates[a.hidden] = d_c * v.c_before * v.f * (1 - v.f);
    gates[2 * a.hidden] = d_c * v.i * (1 - v.g * v.g);
    gates[3 * a.hidden] = d_hat * tanh_c * v.o * (1 - v.o);
    a.d_c[this->State(0, row) + j] = this->Truncates(t) && a.truncate_both ? T{0} : d_c * v.f;
  }

  // d_h = W_hh^T times the gradients of the gates' arguments, this block's units: nothing where the gradient is cut.
  SAB_DEVICE void Carry(int64_t t) {
    const bool cut = this->Truncates(t);
    for (int from = 0; from < row_count; from += R) {
      Sums<T, R> sums{};
      if (!cut) {
        const T* d_gates = a.gates + 4 * this->State(this->SlotOf(t), 0);
        sums = this->MultiplyRows(d_gates, 4 * a.hidden, from, 0, this->square_columns());
      }
      this->ForEachUnit(from, [&](int unit, int r) {
        a.d_h[this->State(0, first_row + from + r) + first_unit + unit] = cut ? T{0} : sums(unit, r);
      });
    }
  }
};

}  // namespace sab::model::cuda
