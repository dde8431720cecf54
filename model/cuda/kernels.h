#pragma once

#include <cuda_runtime_api.h>

#include "model/cuda/arguments.h"
#include "model/cuda/plan.h"

// Between the file that nvcc compiles and the launcher, which the host's compiler does.
namespace sab::model::cuda {

// How a kernel failed to start: the CUDA call and its error; call is null when it started.
struct LaunchError {
  const char* call = nullptr;
  cudaError_t error = cudaSuccess;
};

template <class T>
LaunchError LaunchSweep(bool backward, bool half, const SweepShape& shape, const SweepArguments<T>& arguments,
                        cudaStream_t stream);
template <class T>
LaunchError LaunchAttention(bool backward, const AttentionArguments<T>& arguments, cudaStream_t stream);

}  // namespace sab::model::cuda
