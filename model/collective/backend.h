#pragma once

#include <memory>

#include "model/collective/collective.h"

// Between the files of model/collective alone: those that see c10d, and the one that loads the CUDA module.
namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace sab::model {

// Exported by the CUDA module under kMakeNcclSymbol: sets *backend to a new c10d::ProcessGroupNCCL over *store, two
// c10::intrusive_ptr (of c10d::Backend and c10d::Store) passed as void*, as c10d's headers stay out of this one.
using MakeNcclFunction = void (*)(void* backend, const void* store, const CollectiveOptions& options);
inline constexpr char kMakeNcclSymbol[] = "sab_make_nccl";

// Throws std::runtime_error when the module does not load.
MakeNcclFunction LoadMakeNccl();

}  // namespace sab::model
