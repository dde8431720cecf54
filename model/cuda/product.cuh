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

// Sums left in shared memory by Multiply, each in `splits` parts that are added in order.
template <class T, int R>
struct Sums {
  const T* partial;
  int columns;
  int splits;

  SAB_DEVICE T operator()(int column, int row) const {
    T sum = 0;
    for (int s = 0; s < splits; ++s) sum += partial[(s * columns + column) * R + row];
    return sum;
  }
};

// sums(n, r) = sum over k < depth of source(r, k) * weights[k * columns + n], for R rows; `columns` is a multiple of
// kColumns. The whole block calls it; the sums may be read when it returns, until the next call. A thread computes
// kColumns columns of all rows over a share of the terms: a weight is read once for R rows.
//
// From shared memory four weights of 16 bytes and R numbers of the left side feed 4 R multiply-adds: with two rows the
// loads take 5 cycles of the multiprocessor's shared memory for 4 of its arithmetic.
template <class T, class W, int R, class Source>
SAB_DEVICE Sums<T, R> Multiply(const Source& source, int depth, const W* weights, int columns, T* stage, T* partial) {
  const int thread = ThreadInBlock(), threads = ThreadsOfBlock(), quads = columns / kColumns;
  const int splits = threads >= quads ? threads / quads : 1;
  constexpr int kTile = kStageElements / R;
  for (int first = 0; first < quads; first += threads) {
    const int here = quads - first < threads ? quads - first : threads;
    const int quad = first + thread % here, split = thread / here;
    T sum[R][kColumns] = {};
    for (int k0 = 0; k0 < depth; k0 += kTile) {
      const int count = depth - k0 < kTile ? depth - k0 : kTile;
      SyncBlock();
      for (int e = thread; e < count * R; e += threads) stage[e % count * R + e / count] = source(e / count, k0 + e % count);
      SyncBlock();
      if (split >= splits) continue;
#pragma unroll 4
      for (int k = split; k < count; k += splits) {
        const auto w = LoadTogether<W, kColumns>(weights + int64_t{k0 + k} * columns + kColumns * quad);
        const auto x = LoadTogether<T, R>(stage + k * R);
        for (int r = 0; r < R; ++r)
          for (int n = 0; n < kColumns; ++n) sum[r][n] += x.value[r] * static_cast<T>(ToFloat(w.value[n]));
      }
    }
    if (split >= splits) continue;
    for (int n = 0; n < kColumns; ++n)
      for (int r = 0; r < R; ++r) partial[(split * columns + kColumns * quad + n) * R + r] = sum[r][n];
  }
  SyncBlock();
  return {partial, columns, splits};
}

}  // namespace sab::model::cuda
