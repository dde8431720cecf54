#pragma once

#include <memory>

#include "model/cuda/launcher.h"

namespace sab::model::cuda {

// Runs kernels in the emulator, at once, on tensors of a CPU. `limits` pretends a GPU: few processors and little shared
// memory make groups of several blocks and weights that are not resident.
std::unique_ptr<Launcher> MakeEmulatedLauncher(const DeviceLimits& limits);

}  // namespace sab::model::cuda
