// The kernels on the current GPU: part of libsab_cuda.so, which is loaded for device cuda alone.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <exception>
#include <optional>
#include <stdexcept>
#include <string>

#include "model/cuda/kernels.h"
#include "model/cuda/launcher.h"

namespace sab::model::cuda {
namespace {

void Check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA: ") + call + ": " + cudaGetErrorName(error) + ": " +
                           cudaGetErrorString(error));
}

void Check(const LaunchError& error) {
  if (error.call != nullptr) Check(error.error, error.call);
}

int Attribute(cudaDeviceAttr attribute, const char* name) {
  int device = 0, value = 0;
  Check(cudaGetDevice(&device), "cudaGetDevice");
  Check(cudaDeviceGetAttribute(&value, attribute, device), name);
  return value;
}

class CudaGraph : public Graph {
 public:
  // Captures on `side`: the current stream may be the legacy one, which cannot be captured. Threads of autograd work on
  // it too, so the mode concerns this thread's calls alone.
  CudaGraph(const c10::cuda::CUDAStream& side, const std::function<void()>& enqueue)
      : pool_(at::cuda::graph_pool_handle()) {
    Check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    const c10::cuda::CUDAStreamGuard guard(side);
    graph_.capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    try {
      enqueue();
    } catch (...) {
      Abandon(side.device_index());
      throw;
    }
    try {
      graph_.capture_end();
    } catch (...) {
      StopAllocating(side.device_index());
      throw;
    }
  }

  void Replay() override { graph_.replay(); }

 private:
  void Abandon(c10::DeviceIndex device) {
    try {
      graph_.capture_end();
    } catch (const std::exception&) {  // `enqueue` has said what is wrong
      StopAllocating(device);
    }
  }

  // An end that failed leaves the allocator waiting for it.
  void StopAllocating(c10::DeviceIndex device) {
    try {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device, pool_);
      c10::cuda::CUDACachingAllocator::releasePool(device, pool_);
    } catch (const std::exception&) {  // it failed later than that
    }
  }

  const at::cuda::MempoolId_t pool_;
  at::cuda::CUDAGraph graph_;
};

class CudaLauncher : public Launcher {
 public:
  DeviceLimits Limits() const override {
    DeviceLimits limits;
    limits.processors = Attribute(cudaDevAttrMultiProcessorCount, "cudaDeviceGetAttribute(MultiProcessorCount)");
    limits.shared_bytes =
        Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, "cudaDeviceGetAttribute(MaxSharedMemoryPerBlockOptin)");
    // The kernels' code for sm_90 alone knows clusters.
    if (Attribute(cudaDevAttrComputeCapabilityMajor, "cudaDeviceGetAttribute(ComputeCapabilityMajor)") < 9) {
      limits.cluster_blocks = 1;
    }
    return limits;
  }

  void Sweep(bool backward, bool half, const SweepShape& shape, const SweepArguments<float>& arguments) override {
    Check(LaunchSweep(backward, half, shape, arguments, Stream()));
  }
  void Sweep(bool backward, bool half, const SweepShape& shape, const SweepArguments<double>& arguments) override {
    Check(LaunchSweep(backward, half, shape, arguments, Stream()));
  }
  void Attend(bool backward, const AttentionArguments<float>& arguments) override {
    Check(LaunchAttention(backward, arguments, Stream()));
  }
  void Attend(bool backward, const AttentionArguments<double>& arguments) override {
    Check(LaunchAttention(backward, arguments, Stream()));
  }

  std::unique_ptr<Graph> Capture(const std::function<void()>& enqueue) override {
    // One stream for all of them: libraries keep workspaces for each.
    if (!side_.has_value()) side_ = c10::cuda::getStreamFromPool();
    return std::make_unique<CudaGraph>(*side_, enqueue);
  }

 private:
  static cudaStream_t Stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

  std::optional<c10::cuda::CUDAStream> side_;
};

}  // namespace
}  // namespace sab::model::cuda

extern "C" __attribute__((visibility("default"))) sab::model::cuda::Launcher* sab_make_cuda_launcher() {
  return new sab::model::cuda::CudaLauncher();
}
