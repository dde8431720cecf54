#include "model/collective/shared_sum.h"

#include <algorithm>
#include <cstring>

namespace sab::model {
namespace {

// The sum of a block is built where it stays in the first-level cache, so that a source may be a destination.
constexpr int64_t kBlockBytes = 4096;

template <typename T>
void AddBlock(const std::byte* source, int64_t count, T* __restrict sum) {
  const T* __restrict values = reinterpret_cast<const T*>(source);
  for (int64_t i = 0; i < count; ++i) sum[i] += values[i];
}

template <typename T>
void Sum(const std::byte* const* sources, int source_count, int64_t count, std::byte* first, std::byte* second) {
  constexpr int64_t kBlock = kBlockBytes / static_cast<int64_t>(sizeof(T));
  alignas(64) T sum[kBlock];
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t n = std::min(kBlock, count - done);
    const size_t offset = static_cast<size_t>(done) * sizeof(T), bytes = static_cast<size_t>(n) * sizeof(T);
    std::memcpy(sum, sources[0] + offset, bytes);
    for (int s = 1; s < source_count; ++s) AddBlock(sources[s] + offset, n, sum);
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
