// The CUDA module, loaded at run time for device cuda: NCCL, and by its dependences LibTorch's CUDA part.
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "model/collective/backend.h"

extern "C" __attribute__((visibility("default"))) void sab_make_nccl(void* backend, const void* store,
                                                                     const sab::model::CollectiveOptions& options) {
  auto nccl_options = c10d::ProcessGroupNCCL::Options::create();
  nccl_options->timeout = options.timeout;
  auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(*static_cast<const c10::intrusive_ptr<c10d::Store>*>(store),
                                                           options.rank, options.world_size, nccl_options);
  group->eagerConnectSingleDevice(options.device);
  *static_cast<c10::intrusive_ptr<c10d::Backend>*>(backend) = group;
}
