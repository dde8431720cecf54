#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace sab::model {

// Adds up, in pairs, the parts that a rank's shards of the batch give: ((0 + 1) + (2 + 3)) + ((4 + 5) + ...).
//
// With `train.deterministic` the global batch is cut into S equal shards, S a power of two, of which each of R ranks, R
// a divisor of S, has S / R neighbours. What they give is added up here, the ranks' sums are by
// Collective::AllReduceSumInPairs: together one binary tree over the shards, the same wherever it is cut between ranks.
//
//   shard    0   1   2   3
//             \ /     \ /       here, with two ranks
//              +       +
//               \     /         between the ranks
//                  +
//
// Parts are consumed one after the other; log2(S / R) + 1 of them are kept at a time.
class ShardSum {
 public:
  // Of parts with `size` elements, like `options` says (type, device).
  ShardSum(int64_t size, const at::TensorOptions& options) : size_(size), options_(options) {}

  // Where the next part is to be written, (size); its content is unspecified before.
  at::Tensor& Next();
  // Takes in what was written there.
  void Add();
  // The sum of all parts since the last call, of which there was a power of two. Good until the next call of Next.
  const at::Tensor& Take();

 private:
  const int64_t size_;
  const at::TensorOptions options_;
  std::vector<at::Tensor> sums_;  // of 2^k neighbours each, k falling
  size_t used_ = 0;               // of sums_
  uint64_t parts_ = 0;
};

}  // namespace sab::model
