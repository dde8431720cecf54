#pragma once

#include <functional>
#include <string>

#include "model/fast/saved_pieces.h"

namespace sab::model::fast {

// Saves one block of a training pass while it goes on, and takes it up where it was left: the Pauses of its kernels.
// Used by the thread that works on the block.
template <class T>
class BlockSaver {
 public:
  // What all blocks of a pass have in common.
  struct Pass {
    SavePoints& points;
    std::function<std::string()> identity;  // thread-safe
    std::function<void()> save_sum;         // keeps the blocks that are done; thread-safe
  };
  // What is referred to outlives this.
  BlockSaver(const Pass& pass, int member, int64_t block, const BlockMemory<T>& memory);
  BlockSaver(const BlockSaver&) = delete;
  BlockSaver& operator=(const BlockSaver&) = delete;

  const Pauses* pauses() const { return &pauses_; }
  // Keeps a block that is done while others before it are not, when the pass is left.
  void KeepDone() const;

 private:
  SavePoints::Block Described() const;
  bool Resume(Place* place) const;
  bool Between(const Place& place) const;
  SavePoints::Position PositionOf(const Place& place) const;

  const Pass& pass_;
  const int member_;
  const int64_t block_;
  const BlockMemory<T>& memory_;
  const Pauses pauses_;
};

}  // namespace sab::model::fast
