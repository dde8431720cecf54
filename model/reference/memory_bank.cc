#include "model/reference/memory_bank.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace sab::model {

void Stack::Append(const at::Tensor& item) {
  if (at::GradMode::is_enabled()) {
    buffer_ = size_ == 0 ? item.unsqueeze(0) : at::cat({items(), item.unsqueeze(0)});
    ++size_;
    return;
  }
  if (size_ == 0 || size_ == buffer_.size(0)) {
    std::vector<int64_t> shape = item.sizes().vec();
    shape.insert(shape.begin(), std::max<int64_t>(16, 2 * size_));
    at::Tensor larger = at::empty(shape, item.options());
    if (size_ > 0) larger.narrow(0, 0, size_).copy_(items());
    buffer_ = larger;
  }
  buffer_.select(0, size_++).copy_(item);
}

void Stack::Replace(const at::Tensor& items) {
  buffer_ = items;
  size_ = items.size(0);
}

void MemoryBank::Append(const at::Tensor& state, const at::Tensor& key) {
  states_.Append(state);
  keys_.Append(key);
  if (config_.memory_capacity == 0) return;
  if (config_.memory_policy == MemoryPolicy::kRecent) {
    if (size() > config_.memory_capacity) DropOldest();
    return;
  }
  const at::Tensor none = at::zeros_like(state.detach().select(1, 0)).unsqueeze(0);
  recalled_ = recalled_.defined() ? at::cat({recalled_, none}) : none;
  if (size() > config_.memory_capacity) DropLeastRecalled();
}

void MemoryBank::Credit(const at::Tensor& index, const at::Tensor& weights) {
  if (recalled_.defined()) recalled_ = recalled_.scatter_add(0, index, weights.detach());
}

void MemoryBank::DropOldest() {
  const auto without = [this](const at::Tensor& items) {
    return at::cat({items.narrow(0, 0, 1), items.narrow(0, 2, size() - 2)});
  };
  const at::Tensor states = without(states_.items()), keys = without(keys_.items());
  states_.Replace(states);
  keys_.Replace(keys);
}

void MemoryBank::DropLeastRecalled() {
  const int64_t protected_writes = std::min(config_.memory_recent, config_.memory_capacity - 1);
  const int64_t candidates = size() - 1 - protected_writes;
  // A stable sort: ties go to the oldest.
  const at::Tensor order =
      std::get<1>(recalled_.narrow(0, 1, candidates).sort(/*stable=*/true, 0, /*descending=*/false));
  const at::Tensor leaving = order.narrow(0, 0, 1) + 1;  // (1,B)
  at::Tensor left = at::arange(size() - 1, leaving.options()).unsqueeze(1);
  left = left + (left >= leaving);  // (n-1,B): all but the leaving one
  states_.Replace(PickMemories(states_.items(), left));
  keys_.Replace(PickMemories(keys_.items(), left));
  recalled_ = PickMemories(recalled_, left);
}

at::Tensor PickMemories(const at::Tensor& items, const at::Tensor& index) {
  if (items.dim() == 2) return items.gather(0, index);
  return items.gather(0, index.unsqueeze(2).expand({index.size(0), index.size(1), items.size(2)}));
}

}  // namespace sab::model
