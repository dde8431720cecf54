#include "model/train/sweeps.h"

#include <cmath>

// Compiled with -O3, -fno-math-errno and -ffp-contract=off (CMakeLists.txt). Function versions are chosen when the
// program is loaded, which sanitizers do not survive.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define SAB_VECTOR_VERSIONS __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define SAB_VECTOR_VERSIONS
#endif

namespace sab::model {
namespace {

template <typename T>
inline __attribute__((always_inline)) void Adam(T* __restrict values, const T* __restrict gradients, T* __restrict mean,
                                                T* __restrict square, int64_t n, const AdamFactors& f) {
  const T scale = static_cast<T>(f.gradient_scale), decay = static_cast<T>(f.weight_decay);
  const T keep1 = static_cast<T>(f.beta1), new1 = static_cast<T>(1 - f.beta1);
  const T keep2 = static_cast<T>(f.beta2), new2 = static_cast<T>(1 - f.beta2);
  const T step = static_cast<T>(f.learning_rate / f.bias_correction1);
  const T root = static_cast<T>(1 / std::sqrt(f.bias_correction2));
  const T epsilon = static_cast<T>(f.epsilon);
  for (int64_t i = 0; i < n; ++i) {
    const T gradient = gradients[i] * scale + decay * values[i];
    mean[i] = keep1 * mean[i] + new1 * gradient;
    square[i] = keep2 * square[i] + new2 * gradient * gradient;
    values[i] -= step * mean[i] / (std::sqrt(square[i]) * root + epsilon);
  }
}

template <typename T>
inline __attribute__((always_inline)) void Sgd(T* __restrict values, const T* __restrict gradients,
                                               T* __restrict buffer, int64_t n, const SgdFactors& f) {
  const T scale = static_cast<T>(f.gradient_scale), decay = static_cast<T>(f.weight_decay);
  const T rate = static_cast<T>(f.learning_rate), momentum = static_cast<T>(f.momentum);
  if (buffer == nullptr) {
    for (int64_t i = 0; i < n; ++i) values[i] -= rate * (gradients[i] * scale + decay * values[i]);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    buffer[i] = momentum * buffer[i] + (gradients[i] * scale + decay * values[i]);
    values[i] -= rate * buffer[i];
  }
}

template <typename T>
inline __attribute__((always_inline)) double Squares(const T* data, int64_t n) {
  constexpr int kLanes = 16;  // fixed, so that the order of additions does not depend on the vector width
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double x = data[i + lane];
      lanes[lane] += x * x;
    }
  }
  double sum = 0;
  for (; i < n; ++i) sum += static_cast<double>(data[i]) * data[i];
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

SAB_VECTOR_VERSIONS void AdamSweep(float* v, const float* g, float* mean, float* square, int64_t n,
                                   const AdamFactors& f) {
  Adam(v, g, mean, square, n, f);
}
SAB_VECTOR_VERSIONS void AdamSweep(double* v, const double* g, double* mean, double* square, int64_t n,
                                   const AdamFactors& f) {
  Adam(v, g, mean, square, n, f);
}
SAB_VECTOR_VERSIONS void SgdSweep(float* v, const float* g, float* buffer, int64_t n, const SgdFactors& f) {
  Sgd(v, g, buffer, n, f);
}
SAB_VECTOR_VERSIONS void SgdSweep(double* v, const double* g, double* buffer, int64_t n, const SgdFactors& f) {
  Sgd(v, g, buffer, n, f);
}
SAB_VECTOR_VERSIONS double SquareSum(const float* data, int64_t n) {
  return Squares(data, n);
}
SAB_VECTOR_VERSIONS double SquareSum(const double* data, int64_t n) {
  return Squares(data, n);
}

}  // namespace sab::model
