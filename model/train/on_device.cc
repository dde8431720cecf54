#include "model/train/on_device.h"

namespace sab::model {

Batch OnDevice(Batch batch, const at::Tensor& like) {
  for (at::Tensor* tensor : {&batch.inputs, &batch.targets, &batch.lengths}) {
    if (!tensor->defined()) continue;
    if (like.is_cuda()) *tensor = tensor->to(like.device());
    if (like.scalar_type() == at::kDouble && tensor->is_floating_point()) *tensor = tensor->to(at::kDouble);
  }
  return batch;
}

}  // namespace sab::model
