#include "model/cuda/packed_weights.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>

namespace sab::model::cuda {
namespace {

using at::Tensor;

int64_t Columns(const SweepShape& shape) {
  return (shape.units + kColumns - 1) / kColumns * kColumns;
}

// (K,H) -> (group, K * columns): the last dimension divided among blocks, each one's rounded up.
Tensor DivideColumns(const Tensor& w, const SweepShape& shape) {
  const int64_t depth = w.size(0), hidden = w.size(1), all = int64_t{shape.group} * shape.units;
  const Tensor padded = at::constant_pad_nd(w, {0, all - hidden}).view({depth, shape.group, shape.units});
  const Tensor by_block = at::constant_pad_nd(padded.transpose(0, 1), {0, Columns(shape) - shape.units});
  return by_block.contiguous().view({shape.group, -1});
}

// (4H,H) -> (group, H * 4 units)
Tensor DivideGates(const Tensor& w_hh, const SweepShape& shape) {
  const int64_t hidden = w_hh.size(1), all = int64_t{shape.group} * shape.units;
  const Tensor padded = at::constant_pad_nd(w_hh.view({4, hidden, hidden}), {0, 0, 0, all - hidden});
  return padded.view({4, shape.group, shape.units, hidden}).permute({1, 3, 2, 0}).reshape({shape.group, -1});
}

}  // namespace

Tensor PackWeights(const Tensor& w_hh, const Tensor& w_q, const Tensor& w_m, const SweepShape& shape, bool backward) {
  std::vector<Tensor> parts = {backward ? DivideColumns(w_hh, shape) : DivideGates(w_hh, shape)};
  if (w_q.defined()) {
    for (const Tensor& w : {w_q, w_m}) parts.push_back(DivideColumns(backward ? w : w.t(), shape));
  }
  return at::cat(parts, 1);
}

}  // namespace sab::model::cuda
