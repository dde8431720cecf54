// The kernels on the current GPU: part of libsab_cuda.so, which is loaded for device cuda alone.
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

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

 private:
  static cudaStream_t Stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
};

}  // namespace
}  // namespace sab::model::cuda

extern "C" __attribute__((visibility("default"))) sab::model::cuda::Launcher* sab_make_cuda_launcher() {
  return new sab::model::cuda::CudaLauncher();
}
