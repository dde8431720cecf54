#pragma once

#include "model/cuda/recall_backward.cuh"
#include "model/cuda/sweep.cuh"

// Steps last .. first of a recurrence, backward: leaves the gradients of the gates' arguments, of the queries and of
// the keys, from which the weights' are large matrix products.
//
// A step of kind sab in three parts, as forward: the row's recall needs the whole gradient of h, the cell that of h^.
namespace sab::model::cuda {

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
          Cell(t, row, unit, a.d_h[this->State(0, row) + j] + a.d_out_h[this->State(chunk_slot, row) + j]);
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
      Sums<T, R> sums{};
      if (through_query) sums = this->MultiplyRows(d_query, a.hidden, from, a.query_offset, this->square_columns());
      this->ForEachUnit(from, [&](int unit, int r) {
        const int row = first_row + from + r;
        const T d_hat = LoadRemote(a.d_hat + this->State(0, row) + first_unit + unit);
        Cell(t, row, unit, through_query ? d_hat + sums(unit, r) : d_hat);
      });
    }
  }

  // Gates: values in, gradients of their arguments out. d_c: of c in, of the c before out.
  SAB_DEVICE void Cell(int64_t t, int row, int unit, T d_hat) const {
    const int64_t slot = this->SlotOf(t), j = first_unit + unit;
    T* gates = a.gates + 4 * this->State(slot, row) + j;
    T* d_c = a.d_c + this->State(0, row) + j;
    const T i = gates[0], f = gates[a.hidden], g = gates[2 * a.hidden], o = gates[3 * a.hidden];
    const T tanh_c = Tanh(a.c[this->State(slot + 1, row) + j]);
    const T dc = *d_c + d_hat * o * (1 - tanh_c * tanh_c);
    gates[0] = dc * g * i * (1 - i);
    gates[a.hidden] = dc * a.c[this->State(slot, row) + j] * f * (1 - f);
    gates[2 * a.hidden] = dc * i * (1 - g * g);
    gates[3 * a.hidden] = d_hat * tanh_c * o * (1 - o);
    *d_c = this->Truncates(t) && a.truncate_both ? T{0} : dc * f;
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
