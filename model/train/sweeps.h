#pragma once

#include <cstdint>

namespace sab::model {

// The optimiser's loops over flat CPU buffers of n elements, for float and double. The same bits on every machine: no
// fused multiply-add, whatever the vector width.

struct AdamFactors {
  double learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale;
  double bias_correction1, bias_correction2;  // 1 - beta^step
};
void AdamSweep(float* values, const float* gradients, float* mean, float* square, int64_t n,
               const AdamFactors& factors);
void AdamSweep(double* values, const double* gradients, double* mean, double* square, int64_t n,
               const AdamFactors& factors);

struct SgdFactors {
  double learning_rate, momentum, weight_decay, gradient_scale;
};
// `momentum_buffer` may be null when momentum is 0.
void SgdSweep(float* values, const float* gradients, float* momentum_buffer, int64_t n, const SgdFactors& factors);
void SgdSweep(double* values, const double* gradients, double* momentum_buffer, int64_t n, const SgdFactors& factors);

// Sum of squares, added up in double.
double SquareSum(const float* data, int64_t n);
double SquareSum(const double* data, int64_t n);

}  // namespace sab::model
