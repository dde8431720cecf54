#pragma once

#include "model/cuda/arguments.h"
#include "model/cuda/plan.h"

namespace sab::model::cuda {

// Starts kernels: on the current GPU and stream, or in the emulator. One thread calls.
// Each call throws std::runtime_error with the name of the CUDA call that failed; errors of kernels that run show
// later.
class Launcher {
 public:
  virtual ~Launcher() = default;

  virtual DeviceLimits Limits() const = 0;

  // Steps first .. last, forward or backward. half: the weights are BFloat16, otherwise of the arguments' type.
  virtual void Sweep(bool backward, bool half, const SweepShape& shape, const SweepArguments<float>& arguments) = 0;
  virtual void Sweep(bool backward, bool half, const SweepShape& shape, const SweepArguments<double>& arguments) = 0;

  virtual void Attend(bool backward, const AttentionArguments<float>& arguments) = 0;
  virtual void Attend(bool backward, const AttentionArguments<double>& arguments) = 0;
};

// The module libsab_cuda.so exports this under kMakeLauncherSymbol: a new launcher, never null.
using MakeLauncherFunction = Launcher* (*)();
inline constexpr char kMakeLauncherSymbol[] = "sab_make_cuda_launcher";

}  // namespace sab::model::cuda
