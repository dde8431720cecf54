#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// The few things kernels need of the machine they run on. Kernels (*.cuh) are written against these names alone, so
// that the same source is compiled by nvcc for a GPU and by the host's compiler for the emulator, in which tests
// compare it with the reference on machines without a GPU.
//
// Words: a block of threads has warps of 32 lanes; a *group* is some blocks that run at the same time, take the same
// rows through the sequence and meet at SyncGroup. Every thread of a warp, block or group calls its functions together.
#ifdef __CUDACC__
#define SAB_DEVICE __device__ __forceinline__
#define SAB_DEVICE_CALL __device__ __noinline__  // compiled once, however many places call it
#else
#define SAB_DEVICE inline
#define SAB_DEVICE_CALL inline
#include "model/cuda/emulator.h"
#endif

namespace sab::model::cuda {

inline constexpr int kLanes = 32;

// Where the blocks of one group meet: a counter in global memory that was 0 when the kernel started, or the hardware's
// barrier of a cluster (sm_90).
struct GroupBarrier {
  unsigned* counter = nullptr;
  unsigned blocks = 1;
  bool cluster = false;
};

// A weight of 16 bits: the upper half of a float.
struct BFloat16 {
  uint16_t bits;
};

#ifdef __CUDACC__
SAB_DEVICE int ThreadInBlock() {
  return static_cast<int>(threadIdx.x);
}
SAB_DEVICE int ThreadsOfBlock() {
  return static_cast<int>(blockDim.x);
}
SAB_DEVICE int BlockInGrid() {
  return static_cast<int>(blockIdx.x);
}
SAB_DEVICE void SyncBlock() {
  __syncthreads();
}
// The block's shared memory.
SAB_DEVICE char* SharedMemory() {
  extern __shared__ __align__(128) char sab_shared_memory[];
  return sab_shared_memory;
}

// Everything that the group's blocks wrote before is visible behind it, to LoadRemote at least.
SAB_DEVICE void SyncGroup(const GroupBarrier& barrier) {
  if (barrier.blocks == 1) {
    __syncthreads();
    return;
  }
#if __CUDA_ARCH__ >= 900
  if (barrier.cluster) {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    return;
  }
#endif
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned target = (atomicAdd(barrier.counter, 1u) / barrier.blocks + 1) * barrier.blocks;
    unsigned arrived;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(barrier.counter) : "memory");
    } while (arrived < target);
    __threadfence();
  }
  __syncthreads();
}

// Reads what another block of the group may have written: past the first-level cache, which is not coherent.
template <class V>
SAB_DEVICE V LoadRemote(const V* from) {
  return __ldcg(from);
}

template <class V>
SAB_DEVICE V Shuffle(V value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
// The value of the lane before; lane 0's own.
template <class V>
SAB_DEVICE V ShuffleUp(V value) {
  return __shfl_up_sync(0xffffffffu, value, 1);
}
template <class V>
SAB_DEVICE V ShuffleXor(V value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
// Bit i: lane i's predicate.
SAB_DEVICE uint32_t Ballot(bool predicate) {
  return __ballot_sync(0xffffffffu, predicate);
}
SAB_DEVICE void SyncWarp() {
  __syncwarp();
}
SAB_DEVICE int CountOnes(uint32_t bits) {
  return __popc(bits);
}
// The lowest bit that is set; bits is not 0.
SAB_DEVICE int LowestBit(uint32_t bits) {
  return __ffs(static_cast<int>(bits)) - 1;
}
SAB_DEVICE float ToFloat(BFloat16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}
#else
inline int ThreadInBlock() {
  return emulator::Thread();
}
inline int ThreadsOfBlock() {
  return emulator::Threads();
}
inline int BlockInGrid() {
  return emulator::BlockIndex();
}
inline void SyncBlock() {
  emulator::SyncBlock();
}
inline char* SharedMemory() {
  return emulator::SharedMemory();
}
inline void SyncGroup(const GroupBarrier&) {
  emulator::SyncGroup();
}
template <class V>
V LoadRemote(const V* from) {
  return *from;
}
template <class V>
const uint64_t* ExchangeBits(V value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  return emulator::ExchangeInWarp(bits);
}
template <class V>
V Exchange(V value, int lane) {
  const uint64_t found = ExchangeBits(value)[lane];
  std::memcpy(&value, &found, sizeof(value));
  return value;
}
template <class V>
V Shuffle(V value, int lane) {
  return Exchange(value, lane);
}
template <class V>
V ShuffleUp(V value) {
  const int lane = ThreadInBlock() % kLanes;
  return Exchange(value, lane > 0 ? lane - 1 : 0);
}
template <class V>
V ShuffleXor(V value, int mask) {
  return Exchange(value, (ThreadInBlock() % kLanes) ^ mask);
}
inline uint32_t Ballot(bool predicate) {
  const uint64_t* all = emulator::ExchangeInWarp(predicate ? 1 : 0);
  uint32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) bits |= static_cast<uint32_t>(all[lane]) << lane;
  return bits;
}
inline void SyncWarp() {
  emulator::ExchangeInWarp(0);
}
inline int CountOnes(uint32_t bits) {
  return __builtin_popcount(bits);
}
inline int LowestBit(uint32_t bits) {
  return __builtin_ctz(bits);
}
inline float ToFloat(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
#endif

SAB_DEVICE int Lane() {
  return ThreadInBlock() % kLanes;
}
SAB_DEVICE int Warp() {
  return ThreadInBlock() / kLanes;
}
SAB_DEVICE int Warps() {
  return ThreadsOfBlock() / kLanes;
}
SAB_DEVICE float ToFloat(float x) {
  return x;
}
SAB_DEVICE double ToFloat(double x) {
  return x;
}

// Combines the lanes' values in pairs whose distance halves: the same bits on every lane and in every run.
template <class T, class Combine>
SAB_DEVICE T ReduceWarp(T x, const Combine& combine) {
#ifdef __CUDACC__
  for (int mask = kLanes / 2; mask > 0; mask /= 2) x = combine(x, ShuffleXor(x, mask));
  return x;
#else
  const uint64_t* all = ExchangeBits(x);
  T values[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) std::memcpy(&values[lane], &all[lane], sizeof(T));
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) values[lane] = combine(values[lane], values[lane + half]);
  return values[0];
#endif
}
template <class T>
SAB_DEVICE T WarpSum(T x) {
  return ReduceWarp(x, [](T a, T b) { return a + b; });
}
template <class T>
SAB_DEVICE T WarpMax(T x) {
  return ReduceWarp(x, [](T a, T b) { return a > b ? a : b; });
}

SAB_DEVICE float Tanh(float x) {
  return tanhf(x);
}
SAB_DEVICE double Tanh(double x) {
  return tanh(x);
}
// 1 / x, in fp32 to two units in the last place.
SAB_DEVICE float RoughReciprocal(float x) {
#ifdef __CUDACC__
  return __fdividef(1.0f, x);
#else
  return 1 / x;
#endif
}
SAB_DEVICE double RoughReciprocal(double x) {
  return 1 / x;
}
SAB_DEVICE float Exp(float x) {
  return expf(x);
}
SAB_DEVICE double Exp(double x) {
  return exp(x);
}
SAB_DEVICE float Log(float x) {
  return logf(x);
}
SAB_DEVICE double Log(double x) {
  return log(x);
}
template <class T>
SAB_DEVICE T Sigmoid(T x) {
  return T{1} / (T{1} + Exp(-x));
}

}  // namespace sab::model::cuda
