#pragma once

#include "model/fast/vector_math.h"

// The LSTM cell's element-wise part, for one row; H is padded.
namespace sab::model::fast::SAB_ISA {

// gates (4H) hold the arguments of the nonlinearities and afterwards their values.
template <class T>
void CellForward(T* gates, const T* c_before, T* c, T* h, int64_t hidden) {
  for (int64_t j = 0; j < hidden; j += kWidth<T>) {
    const Vec<T> i = Sigmoid<T>(Load(gates + j));
    const Vec<T> f = Sigmoid<T>(Load(gates + hidden + j));
    const Vec<T> g = Tanh<T>(Load(gates + 2 * hidden + j));
    const Vec<T> o = Sigmoid<T>(Load(gates + 3 * hidden + j));
    const Vec<T> next = f * Load(c_before + j) + i * g;
    Store(gates + j, i);
    Store(gates + hidden + j, f);
    Store(gates + 2 * hidden + j, g);
    Store(gates + 3 * hidden + j, o);
    Store(c + j, next);
    Store(h + j, o * Tanh<T>(next));
  }
}

// The state before recall, o tanh(c); c becomes tanh(c).
template <class T>
void CellOutput(const T* gates, T* c, T* hat, int64_t hidden) {
  for (int64_t j = 0; j < hidden; j += kWidth<T>) {
    const Vec<T> tanh_c = Tanh<T>(Load(c + j));
    Store(c + j, tanh_c);
    Store(hat + j, Load(gates + 3 * hidden + j) * tanh_c);
  }
}

// gates: values in, gradients of their arguments out. c: tanh(c) if kIsTanh. d_c: gradient of c in, of c_before out.
template <class T, bool kIsTanh>
void CellBackward(T* gates, const T* c_before, const T* c, const T* d_hat, T* d_c, int64_t hidden) {
  const Vec<T> one = Fill<T>(1);
  for (int64_t j = 0; j < hidden; j += kWidth<T>) {
    const Vec<T> i = Load(gates + j), f = Load(gates + hidden + j);
    const Vec<T> g = Load(gates + 2 * hidden + j), o = Load(gates + 3 * hidden + j);
    const Vec<T> tanh_c = kIsTanh ? Load(c + j) : Tanh<T>(Load(c + j)), dh = Load(d_hat + j);
    const Vec<T> dc = Load(d_c + j) + dh * o * (one - tanh_c * tanh_c);
    Store(gates + j, dc * g * i * (one - i));
    Store(gates + hidden + j, dc * Load(c_before + j) * f * (one - f));
    Store(gates + 2 * hidden + j, dc * i * (one - g * g));
    Store(gates + 3 * hidden + j, dh * tanh_c * o * (one - o));
    Store(d_c + j, dc * f);
  }
}

// y += a x
template <class T>
SAB_INLINE void AddScaled(T a, const T* x, T* y, int64_t count) {
  const Vec<T> factor = Fill<T>(a);
  for (int64_t j = 0; j < count; j += kWidth<T>) Store(y + j, Load(y + j) + factor * Load(x + j));
}

template <class T>
SAB_INLINE void Add(const T* x, T* y, int64_t count) {
  for (int64_t j = 0; j < count; j += kWidth<T>) Store(y + j, Load(y + j) + Load(x + j));
}

template <class T>
SAB_INLINE T Dot(const T* x, const T* y, int64_t count) {
  Vec<T> sum{};
  for (int64_t j = 0; j < count; j += kWidth<T>) sum += Load(x + j) * Load(y + j);
  return Sum<T>(sum);
}

template <class T>
SAB_INLINE void Copy(const T* x, T* y, int64_t count) {
  memcpy(y, x, static_cast<size_t>(count) * sizeof(T));
}

template <class T>
SAB_INLINE void Zero(T* x, int64_t count) {
  memset(x, 0, static_cast<size_t>(count) * sizeof(T));
}

}  // namespace sab::model::fast::SAB_ISA
