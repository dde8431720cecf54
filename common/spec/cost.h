#pragma once

#include "sab/v1/job_service.pb.h"
#include "sab/v1/spec.pb.h"

namespace sab::spec {

// Predicted memory, operations and seconds of a training step of one replica. Pure; `spec` has its defaults resolved.
// Data files are not opened: shapes that only they know (tensor, image) are assumed as `basis` states.
v1::CostEstimate EstimateCost(const v1::JobSpec& spec);

}  // namespace sab::spec
