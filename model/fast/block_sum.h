#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "model/batch.h"
#include "model/fast/plan.h"
#include "model/save_points.h"

namespace sab::model::fast {

// Adds blocks' results up in the order of the blocks, whichever thread brings them. Thread-safe.
template <class T>
class BlockSum {
 public:
  using Identity = std::function<std::string()>;

  // Into `total` (count elements, zeros), which outlives this.
  BlockSum(T* total, int64_t count) : total_(total), count_(count) {}

  // Waits until all blocks before are in. False: the pass is being left, and it is not in.
  bool Add(int64_t block, const T* part, const BlockSums& sums);
  // The pass is left: nobody waits for blocks that will not come.
  void Leave();
  bool left();

  // Blocks 0 .. done() - 1 are in.
  int64_t done();
  PassSums sums();

  // Keeps what is in, if that is more than was kept; takes it up again.
  void Save(SavePoints& points, const Identity& identity);
  void Load(SavePoints& points, const Identity& identity);

 private:
  SavePoints::Block Described(const Identity& identity);

  std::mutex mutex_;
  std::condition_variable turn_;
  int64_t done_ = 0;
  int64_t kept_ = 0;  // of these
  bool left_ = false;
  PassSums sums_;
  T* const total_;
  const int64_t count_;
};

}  // namespace sab::model::fast
