#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"

namespace sab::model {

// Tensors put under one another along a new first dimension. Differentiable while gradients are enabled (each Append
// copies what is there then); otherwise a buffer that doubles.
class Stack {
 public:
  void Append(const at::Tensor& item);
  void Replace(const at::Tensor& items);
  int64_t size() const { return size_; }
  at::Tensor items() const { return buffer_.narrow(0, 0, size_); }  // (size, ..)

 private:
  at::Tensor buffer_;
  int64_t size_ = 0;
};

// The memories of a batch of rows in the order of writing, with the part of their score that is computed once, at the
// write. Bounded by config.memory_capacity: then which memories are left may differ from row to row.
class MemoryBank {
 public:
  explicit MemoryBank(const ModelConfig& config) : config_(config) {}

  // state (B,H); key (B,H) for score mlp, (B) for separable. The first is m_1 and never leaves.
  void Append(const at::Tensor& state, const at::Tensor& key);

  // Adds weights (k,B), without gradient, to what memories index (k,B) were recalled with so far: policy salient goes
  // by it.
  void Credit(const at::Tensor& index, const at::Tensor& weights);

  int64_t size() const { return states_.size(); }
  at::Tensor states() const { return states_.items(); }  // (n,B,H)
  at::Tensor keys() const { return keys_.items(); }      // (n,B,H) or (n,B)

 private:
  void DropOldest();
  void DropLeastRecalled();

  const ModelConfig config_;
  Stack states_, keys_;
  at::Tensor recalled_;  // (n,B): sum of weights; policy salient only
};

// Picks memories: items (n,B,..) at index (k,B) -> (k,B,..).
at::Tensor PickMemories(const at::Tensor& items, const at::Tensor& index);

}  // namespace sab::model
