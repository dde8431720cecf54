#pragma once

#include "model/cuda/device.h"
#include "model/cuda/plan.h"

// Products of a few rows with the slice of a weight that a block owns.
namespace sab::model::cuda {

// Numbers that are loaded together.
template <class V, int kCount>
struct alignas(sizeof(V) * kCount > 16 ? 16 : sizeof(V) * kCount) Together {
  V value[kCount];
};

template <class V, int kCount>
SAB_DEVICE Together<V, kCount> LoadTogether(const V* from) {
  return *reinterpret_cast<const Together<V, kCount>*>(from);
}
template <class V, int kCount>
SAB_DEVICE void StoreTogether(const Together<V, kCount>& values, V* to) {
  *reinterpret_cast<Together<V, kCount>*>(to) = values;
}

// Into how many parts the terms of a product are divided among the block's threads.
SAB_DEVICE int Splits(int columns) {
  const int quads = columns / kColumns, threads = ThreadsOfBlock();
  return threads >= quads ? threads / quads : 1;
}

// Sums left in shared memory by a product, in parts that are added in order: (splits, R, columns), so that neighbouring
// threads read neighbouring columns.
template <class T, int R>
struct Sums {
  const T* partial;
  int columns;
  int splits;

  SAB_DEVICE T operator()(int column, int row) const {
    T sum = 0;
    for (int s = 0; s < splits; ++s) sum += partial[(s * R + row) * columns + column];
    return sum;
  }
  // Columns 4 quad .. 4 quad + 3.
  SAB_DEVICE Together<T, kColumns> Quad(int quad, int row) const {
    Together<T, kColumns> sum{};
    for (int s = 0; s < splits; ++s) {
      const auto part = LoadTogether<T, kColumns>(partial + (s * R + row) * columns + kColumns * quad);
      for (int n = 0; n < kColumns; ++n) sum.value[n] += part.value[n];
    }
    return sum;
  }
};

// R rows times the slice of a weight that a block owns.
template <class T>
struct Product {
  const T* rows = nullptr;  // the first; rows from `count` on count as 0
  int count = 0;
  int depth = 0;    // elements of a row, without gaps between rows
  int columns = 0;  // a multiple of kColumns
  int stage = 0;    // offset in shared memory, as in SharedLayout
  int partial = 0;  // the same
};

// For Sums at product.partial: weights (depth, columns). The whole block calls it; the sums may be read when it
// returns, until the next call. A thread computes kColumns columns of all rows over a share of the terms: a weight is
// read once for R rows.
//
// From shared memory four weights of 16 bytes and R numbers of the left side feed 4 R multiply-adds: with two rows the
// loads take 5 cycles of the multiprocessor's shared memory for 4 of its arithmetic.
template <class T, class W, int R>
SAB_DEVICE void Multiply(const Product<T>& p, const W* weights) {
  const int thread = ThreadInBlock(), threads = ThreadsOfBlock(), quads = p.columns / kColumns;
  const int splits = Splits(p.columns);
  T* const stage = reinterpret_cast<T*>(SharedMemory() + p.stage);
  T* const partial = reinterpret_cast<T*>(SharedMemory() + p.partial);
  constexpr int kTile = kStageElements / R;
  for (int first = 0; first < quads; first += threads) {
    const int here = quads - first < threads ? quads - first : threads;
    const int quad = first + thread % here, split = thread / here;
    Together<T, kColumns> sum[R] = {};
    for (int k0 = 0; k0 < p.depth; k0 += kTile) {
      const int count = p.depth - k0 < kTile ? p.depth - k0 : kTile;
      SyncBlock();
      for (int k = thread; k < count; k += threads) {
        Together<T, R> x;
        for (int r = 0; r < R; ++r) {
          x.value[r] = r < p.count ? LoadRemote(p.rows + int64_t{r} * p.depth + k0 + k) : T{0};
        }
        StoreTogether(x, stage + k * R);
      }
      SyncBlock();
      if (split >= splits) continue;
#pragma unroll 4
      for (int k = split; k < count; k += splits) {
        const auto w = LoadTogether<W, kColumns>(weights + int64_t{k0 + k} * p.columns + kColumns * quad);
        const auto x = LoadTogether<T, R>(stage + k * R);
        for (int r = 0; r < R; ++r)
          for (int n = 0; n < kColumns; ++n) sum[r].value[n] += x.value[r] * static_cast<T>(ToFloat(w.value[n]));
      }
    }
    if (split >= splits) continue;
    for (int r = 0; r < R; ++r) StoreTogether(sum[r], partial + (split * R + r) * p.columns + kColumns * quad);
  }
  SyncBlock();
}

// With weights at `offset` elements of shared memory, or at `weights` in global memory. Calls that the compiler does
// not merge: a kernel has many, and their pointers must show which memory they are to.
template <class T, class W, int R>
SAB_DEVICE_CALL void MultiplyResident(Product<T> product, int64_t offset) {
  Multiply<T, W, R>(product, reinterpret_cast<const W*>(SharedMemory()) + offset);
}
template <class T, class W, int R>
SAB_DEVICE_CALL void MultiplyStreamed(Product<T> product, const W* weights) {
  Multiply<T, W, R>(product, weights);
}

}  // namespace sab::model::cuda
