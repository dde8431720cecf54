#pragma once

#include "sab/v1/job_service.pb.h"
#include "sab/v1/spec.pb.h"

namespace sab::spec {

// Predicted memory, operations and seconds of a training step of one replica. Pure; `spec` has its defaults resolved.
// Data files are not opened: shapes that only they know (tensor, image) are assumed as `basis` states.
v1::CostEstimate EstimateCost(const v1::JobSpec& spec);

// GPU memory that a replica needs, in whole GiB, by the same prediction and a GiB for what a process with CUDA takes by
// itself. 0 where no prediction is good enough to place by: device is not cuda, or the reference engine computes.
int64_t NeededGpuBytes(const v1::JobSpec& spec);

// Memory that placing a replica goes by on a GPU, and on a CPU slot: `resources` if it says so, else as predicted. On
// CPUs the prediction, a sixth for what it may lack, and the process's own, rounded up to what RoundUpMemory gives. 0:
// nothing is known (above), any slot will do.
int64_t PlacedGpuBytes(const v1::JobSpec& spec);
int64_t PlacedCpuBytes(const v1::JobSpec& spec);

}  // namespace sab::spec
