// That the emulator shows what is wrong with a kernel.
#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "model/cuda/device.h"
#include "model/cuda/emulator.h"

namespace sab::model::cuda {
namespace {

constexpr emulator::Grid kTwoBlocks{.blocks = 4, .threads = 64, .group = 2, .shared_bytes = 64 * sizeof(int)};

// Every thread passes its number on through shared memory and reads its opposite's.
std::vector<int> ReadOpposites(bool with_barrier) {
  std::vector<int> found(4 * 64);
  emulator::Run(kTwoBlocks, [&] {
    int* shared = reinterpret_cast<int*>(SharedMemory());
    shared[ThreadInBlock()] = ThreadInBlock();
    if (with_barrier) SyncBlock();
    found[static_cast<size_t>(BlockInGrid() * 64 + ThreadInBlock())] = shared[63 - ThreadInBlock()];
  });
  return found;
}

TEST(Emulator, KeepsBlocksTogetherAtBarriers) {
  const std::vector<int> found = ReadOpposites(true);
  for (int i = 0; i < 4 * 64; ++i) EXPECT_EQ(found[static_cast<size_t>(i)], 63 - i % 64);
}

TEST(Emulator, ShowsAMissingBarrier) {
  EXPECT_NE(ReadOpposites(false), ReadOpposites(true));
}

TEST(Emulator, ShowsAMissingBarrierOfAGroup) {
  for (const bool with_barrier : {false, true}) {
    std::vector<int> written(4), found(4);
    emulator::Run(kTwoBlocks, [&] {
      const auto block = static_cast<size_t>(BlockInGrid());
      SyncBlock();
      if (ThreadInBlock() == 0) written[block] = 1;
      if (with_barrier) SyncGroup({});
      if (ThreadInBlock() == 0) found[block] = written[block ^ 1];
    });
    EXPECT_EQ(found == std::vector<int>({1, 1, 1, 1}), with_barrier);
  }
}

TEST(Emulator, ReportsABarrierThatSomeThreadsMiss) {
  EXPECT_THROW(emulator::Run(kTwoBlocks,
                             [] {
                               if (ThreadInBlock() > 0) SyncBlock();
                             }),
               std::logic_error);
}

TEST(Emulator, ReportsWritesBeyondSharedMemory) {
  EXPECT_THROW(emulator::Run(kTwoBlocks, [] { reinterpret_cast<int*>(SharedMemory())[ThreadInBlock() + 1] = 1; }),
               std::logic_error);
}

TEST(Emulator, GivesEveryLaneTheSameSum) {
  std::vector<float> sums(4 * 64);
  emulator::Run(kTwoBlocks, [&] {
    sums[static_cast<size_t>(BlockInGrid() * 64 + ThreadInBlock())] = WarpSum(0.1f * static_cast<float>(Lane()));
  });
  for (const float sum : sums) EXPECT_EQ(sum, sums[0]);
  EXPECT_NEAR(sums[0], 0.1f * 496, 1e-4f);
}

}  // namespace
}  // namespace sab::model::cuda
