// The kernels on the current GPU: part of libsab_cuda.so, which is loaded for device cuda alone.
#include <ATen/cuda/MemPool.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>

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

cudaStream_t CurrentStream() {
  return c10::cuda::getCurrentCUDAStream().stream();
}

namespace allocator = c10::cuda::CUDACachingAllocator;

// Memory that belongs to a graph: its addresses stay the graph's for as long as this lives.
class Pool {
 public:
  ~Pool() {
    if (begun_) allocator::releasePool(device_, id_);
  }

  // While it lives tensors made on `stream` take their memory from the pool.
  class Scope {
   public:
    Scope(Pool& pool, cudaStream_t stream) : pool_(pool) {
      allocator::beginAllocateToPool(pool.device_, pool.id_, [stream](cudaStream_t other) { return other == stream; });
      pool.begun_ = true;
    }
    ~Scope() { allocator::endAllocateToPool(pool_.device_, pool_.id_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    const Pool& pool_;
  };

 private:
  const c10::DeviceIndex device_ = c10::cuda::current_device();
  const c10::MempoolId_t id_ = at::cuda::MemPool::graph_pool_handle(/*is_user_created=*/false);
  bool begun_ = false;
};

// Not at::cuda::CUDAGraph, which after a capture that the driver has declared invalid leaves the allocator with its
// pool, and with a pointer to itself: training could not go on.
class CudaGraph : public Graph {
 public:
  ~CudaGraph() override {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  }

  // On `stream`, which is not the default one: that cannot be captured.
  void Record(const std::function<void()>& enqueue, const c10::cuda::CUDAStream& stream) {
    try {
      const Recorded recorded = RecordOn(enqueue, stream);
      Check(cudaGraphInstantiate(&executable_, recorded.get(), 0), "cudaGraphInstantiate");
      // Takes now what the first launch would, so that it fails here.
      Check(cudaGraphUpload(executable_, CurrentStream()), "cudaGraphUpload");
    } catch (...) {
      cudaGetLastError();  // or whoever launches next would take the error for theirs
      throw;
    }
  }

  void Replay() override { Check(cudaGraphLaunch(executable_, CurrentStream()), "cudaGraphLaunch"); }

 private:
  struct Destroy {
    void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
  };
  using Recorded = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, Destroy>;

  Recorded RecordOn(const std::function<void()>& enqueue, const c10::cuda::CUDAStream& stream) {
    const c10::cuda::CUDAStreamGuard guard(stream);
    const Pool::Scope scope(pool_, stream.stream());
    // The mode allows other threads (NCCL's, the data's) what a capture does not.
    Check(cudaStreamBeginCapture(stream.stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    std::exception_ptr thrown;
    try {
      enqueue();
    } catch (...) {
      thrown = std::current_exception();
    }
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream.stream(), &graph);
    Recorded recorded(graph);
    if (thrown) std::rethrow_exception(thrown);
    Check(ended, "cudaStreamEndCapture");
    return recorded;
  }

  Pool pool_;  // outlives what works in it
  cudaGraphExec_t executable_ = nullptr;
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
    Check(LaunchSweep(backward, half, shape, arguments, CurrentStream()));
  }
  void Sweep(bool backward, bool half, const SweepShape& shape, const SweepArguments<double>& arguments) override {
    Check(LaunchSweep(backward, half, shape, arguments, CurrentStream()));
  }
  void Attend(bool backward, const AttentionArguments<float>& arguments) override {
    Check(LaunchAttention(backward, arguments, CurrentStream()));
  }
  void Attend(bool backward, const AttentionArguments<double>& arguments) override {
    Check(LaunchAttention(backward, arguments, CurrentStream()));
  }

  std::unique_ptr<Graph> Capture(const std::function<void()>& enqueue) override {
    allocator::emptyCache();  // in a capture the allocator does not make room
    if (!side_) side_ = c10::cuda::getStreamFromPool();
    auto graph = std::make_unique<CudaGraph>();
    graph->Record(enqueue, *side_);
    return graph;
  }

 private:
  std::optional<c10::cuda::CUDAStream> side_;  // one for all captures: cuBLAS keeps a workspace for each stream
};

}  // namespace
}  // namespace sab::model::cuda

extern "C" __attribute__((visibility("default"))) sab::model::cuda::Launcher* sab_make_cuda_launcher() {
  return new sab::model::cuda::CudaLauncher();
}
