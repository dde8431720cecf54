#include "model/collective/shared_sum.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace sab::model {
namespace {

// The sum of a block is built where it stays in the first-level cache, so that a source may be a destination.
constexpr int64_t kBlockBytes = 4096;

template <typename T>
constexpr int64_t kBlock = kBlockBytes / static_cast<int64_t>(sizeof(T));

template <typename T>
void AddBlock(const std::byte* source, int64_t count, T* __restrict sum) {
  const T* __restrict values = reinterpret_cast<const T*>(source);
  for (int64_t i = 0; i < count; ++i) sum[i] += values[i];
}

// The sum, in pairs, of a block of sources [0, source_count), each `offset` bytes in.
template <typename T>
void SumBlock(const std::byte* const* sources, int source_count, size_t offset, int64_t count, T* sum) {
  if (source_count == 1) {
    std::memcpy(sum, sources[0] + offset, static_cast<size_t>(count) * sizeof(T));
    return;
  }
  // The left half of the tree is full.
  const int left = static_cast<int>(std::bit_floor(static_cast<unsigned>(source_count - 1)));
  SumBlock<T>(sources, left, offset, count, sum);
  if (source_count - left == 1) {
    AddBlock(sources[left] + offset, count, sum);
    return;
  }
  alignas(64) T right[kBlock<T>];
  SumBlock<T>(sources + left, source_count - left, offset, count, right);
  AddBlock(reinterpret_cast<const std::byte*>(right), count, sum);
}

template <typename T>
void Sum(const std::byte* const* sources, int source_count, int64_t count, std::byte* first, std::byte* second) {
  alignas(64) T sum[kBlock<T>];
  for (int64_t done = 0; done < count; done += kBlock<T>) {
    const int64_t n = std::min(kBlock<T>, count - done);
    const size_t offset = static_cast<size_t>(done) * sizeof(T), bytes = static_cast<size_t>(n) * sizeof(T);
    SumBlock<T>(sources, source_count, offset, n, sum);
    std::memcpy(first + offset, sum, bytes);
    if (second != nullptr) std::memcpy(second + offset, sum, bytes);
  }
}

}  // namespace

void SumFloats(const std::byte* const* sources, int source_count, int64_t count, std::byte* first, std::byte* second) {
  Sum<float>(sources, source_count, count, first, second);
}

void SumDoubles(const std::byte* const* sources, int source_count, int64_t count, std::byte* first, std::byte* second) {
  Sum<double>(sources, source_count, count, first, second);
}

// Unsigned: it wraps around, as LibTorch's does.
void SumInt64s(const std::byte* const* sources, int source_count, int64_t count, std::byte* first, std::byte* second) {
  Sum<uint64_t>(sources, source_count, count, first, second);
}

}  // namespace sab::model
