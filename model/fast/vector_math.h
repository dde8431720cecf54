#pragma once

#include "model/fast/simd.h"

// exp, tanh and the logistic function on vectors, without tables or branches.
//
// Error bounds, checked by fast_math_test over the whole range (ulp of the result):
//   float   Exp 2 ulp, Tanh 4 ulp, Sigmoid 4 ulp      double  Exp 2 ulp, Tanh 5 ulp, Sigmoid 4 ulp
// Arguments of Exp are clamped to [-87, 88] (float) and [-708, 709] (double): the result is never 0, infinite or
// denormal. NaN stays NaN.
namespace sab::model::fast::SAB_ISA {

// 1 / d within 2 ulp, for |d| between 2^-126 and 2^126: for loops that wait for the divider. (Those of tanh and sigmoid
// do not: beside their polynomials a division is free.) Where vectors are widest an approximation to 14 bits and a step
// of Newton's.
template <class T>
SAB_INLINE Vec<T> Reciprocal(Vec<T> d) {
  return static_cast<T>(1) / d;
}

#if defined(__AVX512F__)
template <>
SAB_INLINE Vec<float> Reciprocal<float>(Vec<float> d) {
  __m512 x;
  memcpy(&x, &d, sizeof(x));
  x = _mm512_maskz_rcp14_ps(0xffff, x);  // unmasked it warns of its own pass-through operand
  Vec<float> r;
  memcpy(&r, &x, sizeof(r));
  return r + r * (1.0f - d * r);
}
#endif

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLow = -87.0f, kHigh = 88.0f;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  static constexpr float kLn2High = 0.693145751953125f, kLn2Low = 1.42860676533018e-06f;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kTanhLimit = 9.1f;
};

template <>
struct ExpConstants<double> {
  static constexpr double kLow = -708.0, kHigh = 709.0;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 0.693147180369123816490, kLn2Low = 1.90821492927058770002e-10;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kTanhLimit = 19.2;
};

// e^f - 1 for |f| <= ln 2 / 2, by Taylor's series; the first term left out is below half an ulp.
SAB_INLINE Vec<float> ReducedExpm1(Vec<float> f) {
  Vec<float> p = f * (1.0f / 5040) + 1.0f / 720;
  p = p * f + 1.0f / 120;
  p = p * f + 1.0f / 24;
  p = p * f + 1.0f / 6;
  p = p * f + 0.5f;
  return (p * f) * f + f;
}

SAB_INLINE Vec<double> ReducedExpm1(Vec<double> f) {
  Vec<double> p = f * (1.0 / 6227020800) + 1.0 / 479001600;
  p = p * f + 1.0 / 39916800;
  p = p * f + 1.0 / 3628800;
  p = p * f + 1.0 / 362880;
  p = p * f + 1.0 / 40320;
  p = p * f + 1.0 / 5040;
  p = p * f + 1.0 / 720;
  p = p * f + 1.0 / 120;
  p = p * f + 1.0 / 24;
  p = p * f + 1.0 / 6;
  p = p * f + 0.5;
  return (p * f) * f + f;
}

// x = n ln 2 + f: returns e^f - 1, and 2^n in `scale`. x must be within [kLow, kHigh].
template <class T>
SAB_INLINE Vec<T> SplitExp(Vec<T> x, Vec<T>* scale) {
  using C = ExpConstants<T>;
  const Vec<T> shifted = x * static_cast<T>(1.44269504088896340736) + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> f = (x - n * C::kLn2High) - n * C::kLn2Low;
  IntVec<T> bits;
  memcpy(&bits, &shifted, sizeof(bits));
  using Int = typename Integer<T>::Type;
  bits = (bits << C::kMantissa) + (static_cast<Int>(C::kBias) << C::kMantissa);
  memcpy(scale, &bits, sizeof(bits));
  return ReducedExpm1(f);
}

template <class T>
SAB_INLINE Vec<T> Exp(Vec<T> x) {
  using C = ExpConstants<T>;
  Vec<T> scale;
  const Vec<T> p = SplitExp<T>(Min<T>(Fill<T>(C::kHigh), Max<T>(Fill<T>(C::kLow), x)), &scale);
  return p * scale + scale;
}

// (e^2x - 1) / (e^2x + 1), exact to a few ulp near 0 too, because e^2x - 1 is never formed by subtracting from e^2x.
template <class T>
SAB_INLINE Vec<T> Tanh(Vec<T> x) {
  const Vec<T> limit = Fill<T>(ExpConstants<T>::kTanhLimit);
  Vec<T> scale;
  const Vec<T> clamped = Min<T>(limit, Max<T>(-limit, x));
  const Vec<T> p = SplitExp<T>(clamped + clamped, &scale);
  const Vec<T> expm1 = p * scale + (scale - static_cast<T>(1));
  return expm1 / (expm1 + static_cast<T>(2));
}

template <class T>
SAB_INLINE Vec<T> Sigmoid(Vec<T> x) {
  return static_cast<T>(1) / (static_cast<T>(1) + Exp<T>(-x));
}

}  // namespace sab::model::fast::SAB_ISA
