#pragma once

// A vector of T as wide as the instruction set this file is compiled for, on the compiler's vector extensions.
// Everything lives in a namespace named after that set (SAB_ISA, given by CMake): the same code is compiled several
// times and must not be merged by the linker. For the same reason kernels call no inline function of the standard
// library.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#ifndef SAB_ISA
#error "SAB_ISA must name the instruction set; see model/fast/CMakeLists.txt"
#endif

namespace sab::model::fast::SAB_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 8, kTileVectors = 3;  // 24 of 32 registers accumulate
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kTileRows = 6, kTileVectors = 2;  // 12 of 16
#else
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 4, kTileVectors = 2;
#endif

template <class T>
struct Integer;
template <>
struct Integer<float> {
  using Type = int32_t;
};
template <>
struct Integer<double> {
  using Type = int64_t;
};

template <class T>
using Vec __attribute__((vector_size(kVectorBytes))) = T;
template <class T>
using IntVec __attribute__((vector_size(kVectorBytes))) = typename Integer<T>::Type;

template <class T>
constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));

#define SAB_INLINE inline __attribute__((always_inline))

template <class T>
SAB_INLINE Vec<T> Load(const T* p) {
  Vec<T> v;
  memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
struct VecOf {
  using Type = Vec<T>;
};

template <class T>
SAB_INLINE void Store(T* p, typename VecOf<T>::Type v) {
  memcpy(p, &v, sizeof(v));
}

template <class T>
SAB_INLINE Vec<T> Fill(T x) {
  return x - Vec<T>{};
}

// Of a NaN and a number, Max and Min return b: a clamp that writes the limit first keeps NaN.
template <class T>
SAB_INLINE Vec<T> Max(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

template <class T>
SAB_INLINE Vec<T> Min(Vec<T> a, Vec<T> b) {
  return a < b ? a : b;
}

template <class T>
SAB_INLINE Vec<T> Abs(Vec<T> a) {
  return Max<T>(a, -a);
}

// Bit v: whether lane v of a comparison's result is set.
template <class T>
SAB_INLINE uint32_t Bits(IntVec<T> mask) {
#if defined(__AVX512F__)
  __m512i m;
  memcpy(&m, &mask, sizeof(m));
  return sizeof(T) == 4 ? _mm512_movepi32_mask(m) : _mm512_movepi64_mask(m);
#elif defined(__AVX2__)
  __m256i m;
  memcpy(&m, &mask, sizeof(m));
  return static_cast<uint32_t>(sizeof(T) == 4 ? _mm256_movemask_ps(_mm256_castsi256_ps(m))
                                              : _mm256_movemask_pd(_mm256_castsi256_pd(m)));
#else
  uint32_t bits = 0;
  for (int v = 0; v < kWidth<T>; ++v) bits |= (mask[v] != 0 ? 1u : 0u) << v;
  return bits;
#endif
}

// In a fixed order, the same for every instruction set of one width.
template <class T>
SAB_INLINE T Sum(Vec<T> v) {
  T x[kWidth<T>];
  memcpy(x, &v, sizeof(v));
  for (int n = kWidth<T> / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) x[i] += x[i + n];
  return x[0];
}

template <class T>
SAB_INLINE T Largest(Vec<T> v) {
  T x[kWidth<T>];
  memcpy(x, &v, sizeof(v));
  T best = x[0];
  for (int i = 1; i < kWidth<T>; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

template <class I>
SAB_INLINE I Smaller(I a, I b) {
  return a < b ? a : b;
}

}  // namespace sab::model::fast::SAB_ISA
