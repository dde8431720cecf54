#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

// Runs a kernel's source on a CPU, for tests: every thread of a group of blocks is a fiber, and fibers run one at a time
// between the points where they wait for each other. The order in which they take turns changes from turn to turn (the
// same in every run), so that a missing barrier shows as a wrong result. Slow, and for one thread of the process.
namespace sab::model::cuda::emulator {

struct Grid {
  int blocks = 1;
  int threads = 64;  // of a block; a multiple of 32
  int group = 1;     // blocks that meet at SyncGroup; divides `blocks`
  size_t shared_bytes = 0;
};

// Runs `kernel` once for each thread, with its block's shared memory (filled with NaNs at the start; 128-byte aligned).
// Throws std::logic_error when threads wait for each other for ever, or when a block wrote beyond its shared memory.
void Run(const Grid& grid, const std::function<void(char* shared)>& kernel);

// What device.h is made of; only within Run.
int Thread();
int Threads();
int BlockIndex();
void SyncBlock();
void SyncGroup();
// All lanes' values, until the warp's next but one exchange.
const uint64_t* ExchangeInWarp(uint64_t value);

}  // namespace sab::model::cuda::emulator
