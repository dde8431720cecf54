#pragma once

#include <array>
#include <cstdint>

namespace sab::model {

// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11): four random words
// as a pure function of a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> Philox4x32(const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key);

// Random numbers as a pure function of (seed, stream, substream) and of how many were drawn before: the same bits on
// every machine, in any order of streams. Give each independent purpose its own stream (a step, a parameter) and each
// row its own substream. A substream holds 2^34 words. Cheap to construct; not for several threads at once.
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0, uint32_t substream = 0);

  uint32_t Word();
  uint64_t Word64();
  // In [0, 1), multiples of 2^-53.
  double Uniform();
  // In [0, 1), multiples of 2^-24.
  float UniformFloat();
  // In 0 .. n-1, unbiased; n at least 1.
  uint64_t Below(uint64_t n);
  // Mean 0, variance 1. Uses no function of the C library but sqrt, so that the bits do not depend on it.
  double Normal();

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;  // block number, substream, stream (low, high)
  std::array<uint32_t, 4> block_;
  int used_ = 4;
  double spare_normal_ = 0;
  bool has_spare_ = false;
};

// FNV-1a of some bytes: names and data as streams.
uint64_t HashBytes(const void* bytes, uint64_t size);

}  // namespace sab::model
