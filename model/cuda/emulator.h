#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

// Runs a kernel's source on a CPU, for tests: every thread of a group of blocks is a fiber, and fibers run one at a
// time between the points where they wait for each other. Which of those that can run does so next is drawn at random
// (the same in every run), so that a missing barrier shows as a wrong result. Slow, and for one thread of the process.
namespace sab::model::cuda::emulator {

struct Grid {
  int blocks = 1;
  int threads = 64;  // of a block; a multiple of 32
  int group = 1;     // blocks that meet at SyncGroup; divides `blocks`
  size_t shared_bytes = 0;
};

// Runs `kernel` once for each thread. Throws std::logic_error when threads wait for each other for ever, or when a
// block wrote beyond its shared memory.
void Run(const Grid& grid, const std::function<void()>& kernel);

// What device.h is made of; only within Run.
int Thread();
int Threads();
int BlockIndex();
char* SharedMemory();  // 128-byte aligned, NaNs at the start
void SyncBlock();
void SyncGroup();
// All lanes' values, until the warp's next but one exchange.
const uint64_t* ExchangeInWarp(uint64_t value);

}  // namespace sab::model::cuda::emulator
