#include "model/train/shard_sum.h"

#include <ATen/ops/empty.h>

namespace sab::model {

at::Tensor& ShardSum::Next() {
  if (used_ == sums_.size()) sums_.push_back(at::empty({size_}, options_));
  return sums_[used_];
}

void ShardSum::Add() {
  ++used_;
  ++parts_;
  // As a binary counter carries.
  for (uint64_t rest = parts_; rest % 2 == 0; rest /= 2) {
    --used_;
    sums_[used_ - 1].add_(sums_[used_]);
  }
}

const at::Tensor& ShardSum::Take() {
  used_ = 0;
  parts_ = 0;
  return sums_[0];
}

}  // namespace sab::model
