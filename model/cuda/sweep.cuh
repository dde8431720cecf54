#pragma once

#include "model/cuda/arguments.h"
#include "model/cuda/product.cuh"

// What the sweeps forward and backward have in common: which rows and hidden units a block has, and where things lie.
namespace sab::model::cuda {

// T: of states and sums; W: of the weights; R: rows that a thread computes at a time.
template <class T, class W, int R>
class Sweep {
 public:
  SAB_DEVICE explicit Sweep(const SweepArguments<T>& arguments)
      : a(arguments), barrier_(arguments.barrier), rank(BlockInGrid() % static_cast<int>(barrier_.blocks)) {
    const int group = BlockInGrid() / static_cast<int>(barrier_.blocks);
    barrier_.counter += group;
    first_row = group * a.group_rows;
    row_count = a.rows - first_row < a.group_rows ? a.rows - first_row : a.group_rows;
    first_unit = rank * a.units;
    unit_count = a.hidden - first_unit < a.units ? a.hidden - first_unit : a.units;
    if (a.resident) CopyWeights();
    SyncBlock();
  }

 protected:
  SAB_DEVICE void MeetGroup() const { SyncGroup(barrier_); }

  SAB_DEVICE int64_t SlotOf(int64_t t) const { return a.first_slot + t - a.first; }
  SAB_DEVICE int64_t RecallSlotOf(int64_t t) const { return a.first_recall_slot + t - a.first; }
  SAB_DEVICE bool Writes(int64_t t) const { return a.recalls && t % a.k_att == 0; }
  // Whether the gradient is cut between steps t-1 and t.
  SAB_DEVICE bool Truncates(int64_t t) const { return a.k_trunc > 0 && t % a.k_trunc == 0; }
  // Of `row` in a tensor (.., B, H) at `slot`.
  SAB_DEVICE int64_t State(int64_t slot, int row) const { return (slot * a.rows + row) * a.hidden; }

  // R rows from the group's row `from` of the tensor (B,width) at `states`, with the weights at `offset` of the slice.
  SAB_DEVICE Sums<T, R> MultiplyRows(const T* states, int width, int from, int64_t offset, int columns) const {
    const Product<T> product{
        states + int64_t{first_row + from} * width, row_count - from, width, columns, a.layout.stage, a.layout.partial};
    if (a.resident) {
      MultiplyResident<T, W, R>(product, offset);
    } else {
      MultiplyStreamed<T, W, R>(product, static_cast<const W*>(a.weights) + rank * a.slice + offset);
    }
    return {reinterpret_cast<const T*>(SharedMemory() + a.layout.partial), columns, Splits(columns)};
  }

  // Calls visit(unit, r) for each of the block's units and each of R rows from the group's row `from`, units side by
  // side.
  template <class Visit>
  SAB_DEVICE void ForEachUnit(int from, const Visit& visit) const {
    const int rows = row_count - from < R ? row_count - from : R;
    for (int e = ThreadInBlock(); e < rows * unit_count; e += ThreadsOfBlock()) visit(e % unit_count, e / unit_count);
  }

  // The same for the thread's first alone; whether it has one.
  template <class Visit>
  SAB_DEVICE bool ForFirstUnit(int from, const Visit& visit) const {
    const int rows = row_count - from < R ? row_count - from : R, e = ThreadInBlock();
    if (e < rows * unit_count) visit(e % unit_count, e / unit_count);
    return e < rows * unit_count;
  }

  SAB_DEVICE int square_columns() const { return (a.units + kColumns - 1) / kColumns * kColumns; }

  const SweepArguments<T>& a;

 private:
  SAB_DEVICE void CopyWeights() {
    const W* from = static_cast<const W*>(a.weights) + rank * a.slice;
    using Quad = Together<W, kColumns>;
    for (int64_t i = ThreadInBlock(); i < a.slice / kColumns; i += ThreadsOfBlock()) {
      reinterpret_cast<Quad*>(SharedMemory())[i] = reinterpret_cast<const Quad*>(from)[i];
    }
  }

  GroupBarrier barrier_;

 protected:
  const int rank;  // of this block in its group
  int first_row = 0, row_count = 0;
  int first_unit = 0, unit_count = 0;
};

}  // namespace sab::model::cuda
