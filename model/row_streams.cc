#include "model/row_streams.h"

#include <algorithm>

#include "model/random.h"

namespace sab::model {

std::vector<uint64_t> RowStreams(const Batch& batch) {
  const at::Tensor inputs = batch.inputs.detach().cpu().contiguous();
  const auto* bytes = static_cast<const char*>(inputs.const_data_ptr());
  const int64_t step_bytes = inputs.nbytes() / std::max<int64_t>(1, batch.rows() * batch.steps());
  const at::Tensor lengths = batch.lengths.defined() ? batch.lengths.cpu() : at::Tensor();
  std::vector<uint64_t> streams;
  for (int64_t row = 0; row < batch.rows(); ++row) {
    const int64_t length = lengths.defined() ? lengths[row].item<int64_t>() : batch.steps();
    streams.push_back(HashBytes(bytes + row * batch.steps() * step_bytes, length * step_bytes));
  }
  return streams;
}

}  // namespace sab::model
