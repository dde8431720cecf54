#pragma once

#include <cstdint>
#include <vector>

#include "model/fast/plan.h"
#include "model/save_points.h"

// What a save point keeps of a block of a training pass; not for kind attention.
namespace sab::model::fast {

// A block at work.
template <class T>
struct BlockMemory {
  const Plan& plan;
  int64_t rows;  // of this block
  const Workspace<T>& work;
  T* gradients;  // Gradients<T>::base
  int64_t gradient_count;
  BlockSums* sums;
};

// What going forward over chunks from .. to - 1 has added for good: states before chunks, recalls, memories.
template <class T>
std::vector<SavedPiece> GrownPieces(const BlockMemory<T>& block, int64_t from, int64_t to);

// The rest of what a pass needs to go on from `place`. Going backward that is less and less: nobody recalls what was
// written later.
template <class T>
std::vector<SavedPiece> RestPieces(const BlockMemory<T>& block, const Place& place);

}  // namespace sab::model::fast
