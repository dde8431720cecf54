#pragma once

#include <functional>
#include <memory>

#include "model/cuda/arguments.h"
#include "model/cuda/plan.h"

namespace sab::model::cuda {

// What Launcher::Capture recorded, with the memory that it works in.
class Graph {
 public:
  virtual ~Graph() = default;

  // Enqueues all of it on the current stream. Throws std::runtime_error with the name of the CUDA call that failed.
  virtual void Replay() = 0;
};

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

  // Records what `enqueue` puts on the current stream, kernels and LibTorch's operations, and runs none of it. Throws
  // what `enqueue` throws, or std::runtime_error as above; either way streams and memory are as before, and plain
  // launches go on. (The emulator keeps `enqueue`, and calls it at every replay.)
  virtual std::unique_ptr<Graph> Capture(const std::function<void()>& enqueue) = 0;
};

// The module libsab_cuda.so exports this under kMakeLauncherSymbol: a new launcher, never null.
using MakeLauncherFunction = Launcher* (*)();
inline constexpr char kMakeLauncherSymbol[] = "sab_make_cuda_launcher";

}  // namespace sab::model::cuda
