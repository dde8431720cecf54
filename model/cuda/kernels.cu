#include "model/cuda/attention.cuh"
#include "model/cuda/backward.cuh"
#include "model/cuda/forward.cuh"
#include "model/cuda/kernels.h"

// What `nvcc -Xptxas -v` says for sm_90 (in brackets: for sm_80): the fp32 sweeps of two rows take 128 and 110 (128,
// 107) registers forward and backward, all that 512 threads can have; those of eight rows 162 and 138 (153, 128) of the
// 255 that 256 threads can. None in fp32 or with bf16 weights spills; in fp64, which tests alone use, those of two rows
// do a little.
namespace sab::model::cuda {
namespace {

constexpr int kAttentionThreads = 256;

// Threads of a block that the launcher asks for (SweepShape::threads): registers are divided among so many.
constexpr int MostThreads(int rows_at_a_time) {
  return rows_at_a_time == kFewRows ? 512 : 256;
}

template <class T, class W, int R>
__global__ void __launch_bounds__(MostThreads(R), 1)
    ForwardKernel(const __grid_constant__ SweepArguments<T> arguments) {
  ForwardSweep<T, W, R>(arguments).Run();
}

template <class T, class W, int R>
__global__ void __launch_bounds__(MostThreads(R), 1)
    BackwardKernel(const __grid_constant__ SweepArguments<T> arguments) {
  BackwardSweep<T, W, R>(arguments).Run();
}

enum class Part { kForward, kQueries, kMemories };

template <class T, Part kPart>
__global__ void __launch_bounds__(kAttentionThreads, 2) AttentionKernel(const AttentionArguments<T> arguments) {
  Attention<T> attention(arguments);
  const int row = static_cast<int>(blockIdx.y), tile = static_cast<int>(blockIdx.x);
  if (kPart == Part::kForward) attention.Forward(row, tile * kQueryTile);
  if (kPart == Part::kQueries) attention.BackwardQueries(row, tile * kQueryTile);
  if (kPart == Part::kMemories) attention.BackwardMemories(row, tile * kMemoryTile);
}

// A group's blocks wait for each other, so all must run at once: a cluster does by itself, otherwise the launch is
// cooperative, which fails when the grid is larger than what fits.
template <class T>
LaunchError Launch(void (*kernel)(SweepArguments<T>), const SweepShape& shape, SweepArguments<T> arguments,
                   cudaStream_t stream) {
  const void* function = reinterpret_cast<const void*>(kernel);
  const cudaError_t error =
      cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
  if (error != cudaSuccess) return {"cudaFuncSetAttribute(MaxDynamicSharedMemorySize)", error};
  cudaLaunchAttribute attribute;
  if (shape.cluster) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(shape.group);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
  } else {
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks()));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  void* pointers[] = {&arguments};
  const cudaError_t launched = cudaLaunchKernelExC(&config, function, pointers);
  return launched == cudaSuccess ? LaunchError{} : LaunchError{"cudaLaunchKernelExC(sweep)", launched};
}

template <class T, class W>
LaunchError LaunchOfWeights(bool backward, const SweepShape& shape, const SweepArguments<T>& arguments,
                            cudaStream_t stream) {
  const bool few = shape.rows_at_a_time == kFewRows;
  if (backward) {
    return Launch<T>(few ? &BackwardKernel<T, W, kFewRows> : &BackwardKernel<T, W, kManyRows>, shape, arguments,
                     stream);
  }
  return Launch<T>(few ? &ForwardKernel<T, W, kFewRows> : &ForwardKernel<T, W, kManyRows>, shape, arguments, stream);
}

template <class T, Part kPart>
LaunchError LaunchPart(int tile, const AttentionArguments<T>& arguments, cudaStream_t stream) {
  const auto bytes = static_cast<int>(static_cast<size_t>(AttentionElements(arguments.hidden)) * sizeof(T));
  const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(&AttentionKernel<T, kPart>),
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return {"cudaFuncSetAttribute(MaxDynamicSharedMemorySize)", error};
  const dim3 grid(static_cast<unsigned>((arguments.steps + tile - 1) / tile), static_cast<unsigned>(arguments.rows));
  AttentionKernel<T, kPart><<<grid, kAttentionThreads, static_cast<size_t>(bytes), stream>>>(arguments);
  const cudaError_t launched = cudaGetLastError();
  return launched == cudaSuccess ? LaunchError{} : LaunchError{"launch of an attention kernel", launched};
}

}  // namespace

template <>
LaunchError LaunchSweep(bool backward, bool half, const SweepShape& shape, const SweepArguments<float>& arguments,
                        cudaStream_t stream) {
  return half ? LaunchOfWeights<float, BFloat16>(backward, shape, arguments, stream)
              : LaunchOfWeights<float, float>(backward, shape, arguments, stream);
}

template <>
LaunchError LaunchSweep(bool backward, bool, const SweepShape& shape, const SweepArguments<double>& arguments,
                        cudaStream_t stream) {
  return LaunchOfWeights<double, double>(backward, shape, arguments, stream);
}

template <class T>
LaunchError LaunchAttention(bool backward, const AttentionArguments<T>& arguments, cudaStream_t stream) {
  if (!backward) return LaunchPart<T, Part::kForward>(kQueryTile, arguments, stream);
  const LaunchError error = LaunchPart<T, Part::kQueries>(kQueryTile, arguments, stream);
  return error.call != nullptr ? error : LaunchPart<T, Part::kMemories>(kMemoryTile, arguments, stream);
}

template LaunchError LaunchAttention<float>(bool, const AttentionArguments<float>&, cudaStream_t);
template LaunchError LaunchAttention<double>(bool, const AttentionArguments<double>&, cudaStream_t);

}  // namespace sab::model::cuda
