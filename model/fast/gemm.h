#pragma once

#include "model/fast/plan.h"
#include "model/fast/simd.h"

// Products of the shapes an LSTM has: a few rows by a packed weight matrix, once a step, and sums of outer products
// over a chunk of steps. Sums over k run in order, so a row's result does not depend on the rows beside it.
namespace sab::model::fast::SAB_ISA {

// Columns are packed in panels of kTileVectors vectors: element (k, n) of the panel that starts at column j lies at
// j * depth + k * panel_width + (n - j). `columns` is a multiple of 16.
template <class T>
constexpr int64_t kPanel = kTileVectors* kWidth<T>;

// Packs b, whose element (k, n) is b[k * stride_k + n * stride_n].
template <class T>
void PackPanels(const T* b, int64_t stride_k, int64_t stride_n, int64_t depth, int64_t columns, T* packed) {
  for (int64_t j = 0; j < columns; j += kPanel<T>) {
    const int64_t width = Smaller(kPanel<T>, columns - j);
    for (int64_t k = 0; stride_n == 1 && k < depth; ++k)
      for (int64_t n = 0; n < width; n += kWidth<T>) {
        Store(packed + j * depth + k * width + n, Load(b + k * stride_k + j + n));
      }
    for (int64_t k = 0; stride_n != 1 && k < depth; ++k)
      for (int64_t n = 0; n < width; ++n) packed[j * depth + k * width + n] = b[k * stride_k + (j + n) * stride_n];
  }
}

// One tile: rows x vectors of c. Element (row, k) of a is a[row * stride_row + k * stride_k].
template <class T, int kRows, int kVectors>
void Tile(const T* a, int64_t stride_row, int64_t stride_k, const T* b, int64_t depth, T* c, int64_t ldc,
          bool accumulate) {
  constexpr int kW = kWidth<T>;
  Vec<T> sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = accumulate ? Load(c + r * ldc + v * kW) : Vec<T>{};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> column[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) column[v] = Load(b + v * kW);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> x = Fill<T>(a[r * stride_row]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += x * column[v];
    }
    a += stride_k;
    b += kVectors * kW;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(c + r * ldc + v * kW, sum[r][v]);
}

template <class T>
using TileFunction = void (*)(const T*, int64_t, int64_t, const T*, int64_t, T*, int64_t, bool);

template <class T, int kVectors>
SAB_INLINE TileFunction<T> TileOfRows(int64_t rows) {
  static constexpr TileFunction<T> kTiles[] = {
      nullptr,
      &Tile<T, 1, kVectors>,
      &Tile<T, 2, kVectors>,
      &Tile<T, 3, kVectors>,
      &Tile<T, 4, kVectors>,
      &Tile < T,
      kTileRows < 5 ? kTileRows : 5,
      kVectors >,
      &Tile < T,
      kTileRows < 6 ? kTileRows : 6,
      kVectors >
      , &Tile < T, kTileRows < 7 ? kTileRows : 7, kVectors >, &Tile<T, kTileRows, kVectors>};
  return kTiles[rows];
}

template <class T>
SAB_INLINE TileFunction<T> TileFor(int64_t rows, int64_t width) {
  const int64_t vectors = width / kWidth<T>;
  if (vectors == kTileVectors) return TileOfRows<T, kTileVectors>(rows);
  return vectors == 2 ? TileOfRows<T, 2>(rows) : TileOfRows<T, 1>(rows);
}

// A packed matrix (depth, columns); of a deeper one that was packed with `packed_depth`, its first rows.
template <class T>
struct Panels {
  const T* data;
  int64_t depth;
  int64_t columns;
  int64_t packed_depth = depth;
};

// c (rows, b.columns) = [c +] a (rows, b.depth) b. Rows of a lie lda apart.
template <class T>
void MultiplyPacked(const T* a, int64_t lda, int64_t rows, const Panels<T>& b, T* c, bool accumulate) {
  for (int64_t j = 0; j < b.columns; j += kPanel<T>) {
    const int64_t width = Smaller(kPanel<T>, b.columns - j);
    const T* const panel = b.data + j * b.packed_depth;
    for (int64_t r = 0, count = 0; r < rows; r += count) {
      const int64_t tiles = (rows - r + kTileRows - 1) / kTileRows;
      count = (rows - r + tiles - 1) / tiles;  // of even height: a low tile waits for its own sums
      TileFor<T>(count, width)(a + r * lda, lda, 1, panel, b.depth, c + r * b.columns + j, b.columns, accumulate);
    }
  }
}

// One left operand of AddOuterProducts: c (count, columns) += sum over k of a[k]^T b[k]. lda = 0 repeats one row.
template <class T>
struct OuterOperand {
  const T* a;
  int64_t lda;
  int64_t count;
  T* c;
};

// a (depth, count) with row stride lda to panels of kTileRows columns; one that is not full keeps its width.
template <class T>
T* PackLeft(const T* a, int64_t lda, int64_t depth, int64_t count, T* out) {
  int64_t m = 0;
  for (; m + kTileRows <= count; m += kTileRows)
    for (int64_t k = 0; k < depth; ++k, out += kTileRows) memcpy(out, a + k * lda + m, kTileRows * sizeof(T));
  for (int64_t k = 0; m < count && k < depth; ++k)
    for (int64_t i = m; i < count; ++i) *out++ = a[k * lda + i];
  return out;
}

// For each operand, c += a^T b, where b is (depth, columns) with row stride ldb and c has row stride `columns`.
// `scratch` holds kOuterDepth * (all counts + 48) elements.
template <class T>
void AddOuterProducts(const OuterOperand<T>* operands, int64_t operand_count, const T* b, int64_t ldb, int64_t depth,
                      int64_t columns, T* scratch) {
  for (int64_t from = 0; from < depth; from += kOuterDepth) {
    const int64_t part = Smaller(kOuterDepth, depth - from);
    T* const panel = scratch;
    T* const left = scratch + part * kPanel<T>;
    T* end = left;
    for (int64_t o = 0; o < operand_count; ++o) {
      end = PackLeft(operands[o].a + from * operands[o].lda, operands[o].lda, part, operands[o].count, end);
    }
    for (int64_t j = 0; j < columns; j += kPanel<T>) {
      const int64_t width = Smaller(kPanel<T>, columns - j);
      PackPanels(b + from * ldb + j, ldb, 1, part, width, panel);
      const T* a = left;
      for (int64_t o = 0; o < operand_count; ++o) {
        const OuterOperand<T>& op = operands[o];
        for (int64_t m = 0; m < op.count; m += kTileRows) {
          const int64_t count = Smaller<int64_t>(kTileRows, op.count - m);
          TileFor<T>(count, width)(a, 1, count, panel, part, op.c + m * columns + j, columns, true);
          a += part * count;
        }
      }
    }
  }
}

}  // namespace sab::model::fast::SAB_ISA
