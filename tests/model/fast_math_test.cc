#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "model/fast/plan.h"

namespace sab::model::fast {
namespace {

enum Function { kExp, kTanh, kSigmoid };

long double Exact(Function function, long double x) {
  if (function == kExp) return std::exp(x);
  if (function == kTanh) return std::tanh(x);
  return 1 / (1 + std::exp(-x));
}

// The distance of neighbouring numbers of T at y.
template <class T>
long double Ulp(long double y) {
  const T at = std::abs(static_cast<T>(y));
  return static_cast<long double>(std::nextafter(at, std::numeric_limits<T>::infinity())) - at;
}

// Both signs, magnitudes from tiny to beyond every clamp, evenly in the logarithm and evenly in value.
template <class T>
std::vector<T> Arguments(double largest) {
  std::vector<T> x;
  for (int i = 0; i < 40000; ++i) {
    const double logarithmic = largest * std::pow(10.0, -i / 4000.0), linear = largest * (i + 0.5) / 40000;
    for (double v : {logarithmic, -logarithmic, linear, -linear}) x.push_back(static_cast<T>(v));
  }
  return x;
}

template <class T>
double WorstUlps(const Kernels<T>& kernels, Function function, double largest) {
  const std::vector<T> x = Arguments<T>(largest);
  std::vector<T> y(x.size());
  kernels.apply(function, x.data(), y.data(), static_cast<int64_t>(x.size()));
  long double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const long double exact = Exact(function, x[i]);
    worst = std::max(worst, std::abs(y[i] - exact) / Ulp<T>(exact));
  }
  return static_cast<double>(worst);
}

template <class T>
void ExpectBounds(const char* isa, double exp_range, double exp_ulps, double tanh_ulps, double sigmoid_ulps) {
  const Kernels<T>* kernels = KernelsNamed<T>(isa);
  if (kernels == nullptr) GTEST_SKIP() << "this machine has no " << isa;
  EXPECT_LE(WorstUlps(*kernels, kExp, exp_range), exp_ulps);
  EXPECT_LE(WorstUlps(*kernels, kTanh, 50), tanh_ulps);
  EXPECT_LE(WorstUlps(*kernels, kSigmoid, exp_range), sigmoid_ulps);
}

class VectorMath : public testing::TestWithParam<const char*> {};

TEST_P(VectorMath, StaysWithinItsStatedErrorInFp32) {
  ExpectBounds<float>(GetParam(), 86, 2, 4, 4);
}

TEST_P(VectorMath, StaysWithinItsStatedErrorInFp64) {
  ExpectBounds<double>(GetParam(), 700, 2, 5, 4);
}

TEST_P(VectorMath, SaturatesWithoutNanAndKeepsNan) {
  const Kernels<float>* kernels = KernelsNamed<float>(GetParam());
  if (kernels == nullptr) GTEST_SKIP() << "this machine has no " << GetParam();
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x(16, 0.0f), y(16);
  x[0] = inf, x[1] = -inf, x[2] = 1e30f, x[3] = -1e30f, x[4] = std::nanf("");
  kernels->apply(kTanh, x.data(), y.data(), 16);
  EXPECT_EQ(std::vector<float>(y.begin(), y.begin() + 4), (std::vector<float>{1, -1, 1, -1}));
  EXPECT_TRUE(std::isnan(y[4]));
  kernels->apply(kSigmoid, x.data(), y.data(), 16);
  EXPECT_EQ(y[0], 1);
  EXPECT_NEAR(y[1], 0, 1e-30);
  EXPECT_EQ(y[2], 1);
  EXPECT_NEAR(y[3], 0, 1e-30);
  EXPECT_TRUE(std::isnan(y[4]));
}

INSTANTIATE_TEST_SUITE_P(InstructionSets, VectorMath, testing::Values("generic", "avx2", "avx512"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace sab::model::fast
