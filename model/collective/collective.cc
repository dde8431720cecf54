#include "model/collective/collective.h"

#include <dlfcn.h>

#include <atomic>

#include "model/collective/backend.h"

namespace sab::model {
namespace {

class SingleProcessCollective : public Collective {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  std::string transport() const override { return "nothing"; }
  void AllReduceSum(at::Tensor&) override { ThrowIfAborted(); }
  void AllReduceSumInPairs(at::Tensor&) override { ThrowIfAborted(); }
  void Broadcast(at::Tensor&, int) override { ThrowIfAborted(); }
  void Barrier() override { ThrowIfAborted(); }
  void Abort() override { aborted_ = true; }

 private:
  void ThrowIfAborted() const {
    if (aborted_) throw CollectiveError("rank 0 of 1: aborted");
  }
  std::atomic<bool> aborted_ = false;
};

// The module with the NCCL backend; it depends on libtorch_cuda, so loading it brings all of CUDA in.
constexpr char kCudaModule[] = "libsab_cuda.so";

void* OpenCudaModule() {
  void* module = dlopen(kCudaModule, RTLD_NOW | RTLD_GLOBAL);
  if (module == nullptr) throw std::runtime_error(std::string("cannot load the CUDA libraries: ") + dlerror());
  return module;
}

}  // namespace

std::unique_ptr<Collective> MakeSingleProcessCollective() {
  return std::make_unique<SingleProcessCollective>();
}

void LoadCudaLibraries() {
  OpenCudaModule();
}

MakeNcclFunction LoadMakeNccl() {
  void* symbol = dlsym(OpenCudaModule(), kMakeNcclSymbol);
  if (symbol == nullptr) throw CollectiveError(std::string(kCudaModule) + " of this build has no NCCL");
  return reinterpret_cast<MakeNcclFunction>(symbol);
}

}  // namespace sab::model
