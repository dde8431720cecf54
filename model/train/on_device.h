#pragma once

#include "model/batch.h"

namespace sab::model {

// The batch on the device, and in the number format, of a network's parameters `like`. What is there already is not
// copied.
Batch OnDevice(Batch batch, const at::Tensor& like);

}  // namespace sab::model
