#include "model/random.h"

#include <cmath>

namespace sab::model {
namespace {

// Natural logarithm for x in (0, 1] to about 1e-16, in additions, products and one division only: a C library's own may
// use fused multiply-add on one machine and not on the next.
double PortableLog(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);  // exact
  if (mantissa < 0.70710678118654752) {
    mantissa *= 2;
    --exponent;
  }
  const double z = (mantissa - 1) / (mantissa + 1);  // |z| <= 0.172
  const double z2 = z * z;
  double series = 0;
  for (int k = 25; k >= 1; k -= 2) series = series * z2 + 1.0 / k;
  return 2 * z * series + exponent * 0.69314718055994531;
}

}  // namespace

std::array<uint32_t, 4> Philox4x32(const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key) {
  std::array<uint32_t, 4> c = counter;
  std::array<uint32_t, 2> k = key;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    k = {k[0] + 0x9E3779B9u, k[1] + 0xBB67AE85u};
  }
  return c;
}

Random::Random(uint64_t seed, uint64_t stream, uint32_t substream)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      counter_{0, substream, static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
      block_{} {}

uint32_t Random::Word() {
  if (used_ == 4) {
    block_ = Philox4x32(counter_, key_);
    ++counter_[0];
    used_ = 0;
  }
  return block_[used_++];
}

uint64_t Random::Word64() {
  const uint64_t low = Word();
  return low | uint64_t{Word()} << 32;
}

double Random::Uniform() {
  return static_cast<double>(Word64() >> 11) * 0x1p-53;
}

float Random::UniformFloat() {
  return static_cast<float>(Word() >> 8) * 0x1p-24f;
}

// Lemire's multiplication with rejection ("Fast random integer generation in an interval", 2019).
uint64_t Random::Below(uint64_t n) {
  unsigned __int128 product = static_cast<unsigned __int128>(Word64()) * n;
  if (static_cast<uint64_t>(product) < n) {
    const uint64_t threshold = (0 - n) % n;
    while (static_cast<uint64_t>(product) < threshold) product = static_cast<unsigned __int128>(Word64()) * n;
  }
  return static_cast<uint64_t>(product >> 64);
}

// Marsaglia's polar method.
double Random::Normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_normal_;
  }
  double u, v, s;
  do {
    u = 2 * Uniform() - 1;
    v = 2 * Uniform() - 1;
    s = u * u + v * v;
  } while (s >= 1 || s == 0);
  const double factor = std::sqrt(-2 * PortableLog(s) / s);
  spare_normal_ = v * factor;
  has_spare_ = true;
  return u * factor;
}

uint64_t HashBytes(const void* bytes, uint64_t size) {
  const auto* p = static_cast<const unsigned char*>(bytes);
  uint64_t hash = 0xCBF29CE484222325u;
  for (uint64_t i = 0; i < size; ++i) hash = (hash ^ p[i]) * 0x100000001B3u;
  return hash;
}

}  // namespace sab::model
