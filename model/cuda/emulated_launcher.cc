#include "model/cuda/emulated_launcher.h"

#include <utility>

#include "model/cuda/attention.cuh"
#include "model/cuda/backward.cuh"
#include "model/cuda/emulator.h"
#include "model/cuda/forward.cuh"

namespace sab::model::cuda {
namespace {

template <class T, class W, int R>
void RunSweep(bool backward, const SweepShape& shape, const SweepArguments<T>& arguments) {
  const emulator::Grid grid{shape.blocks(), shape.threads, shape.group, shape.shared_bytes};
  emulator::Run(grid, [&] {
    if (backward) {
      BackwardSweep<T, W, R>(arguments).Run();
    } else {
      ForwardSweep<T, W, R>(arguments).Run();
    }
  });
}

template <class T, class W>
void RunSweep(bool backward, const SweepShape& shape, const SweepArguments<T>& arguments) {
  if (shape.rows_at_a_time == kFewRows) {
    RunSweep<T, W, kFewRows>(backward, shape, arguments);
  } else {
    RunSweep<T, W, kManyRows>(backward, shape, arguments);
  }
}

class EmulatedGraph : public Graph {
 public:
  explicit EmulatedGraph(std::function<void()> enqueue) : enqueue_(std::move(enqueue)) {}

  void Replay() override { enqueue_(); }

 private:
  const std::function<void()> enqueue_;
};

class EmulatedLauncher : public Launcher {
 public:
  explicit EmulatedLauncher(const DeviceLimits& limits) : limits_(limits) {}

  DeviceLimits Limits() const override { return limits_; }

  void Sweep(bool backward, bool half, const SweepShape& shape, const SweepArguments<float>& arguments) override {
    if (half) {
      RunSweep<float, BFloat16>(backward, shape, arguments);
    } else {
      RunSweep<float, float>(backward, shape, arguments);
    }
  }
  void Sweep(bool backward, bool half, const SweepShape& shape, const SweepArguments<double>& arguments) override {
    RunSweep<double, double>(backward, shape, arguments);
  }

  void Attend(bool backward, const AttentionArguments<float>& arguments) override { RunAttention(backward, arguments); }
  void Attend(bool backward, const AttentionArguments<double>& arguments) override {
    RunAttention(backward, arguments);
  }

  std::unique_ptr<Graph> Capture(const std::function<void()>& enqueue) override {
    return std::make_unique<EmulatedGraph>(enqueue);
  }

 private:
  template <class T>
  void RunAttention(bool backward, const AttentionArguments<T>& a) const {
    const auto run = [&](int tile, auto method) {
      const int tiles = (a.steps + tile - 1) / tile;
      const size_t bytes = static_cast<size_t>(AttentionElements(a.hidden)) * sizeof(T);
      emulator::Run({tiles * a.rows, limits_.threads, 1, bytes}, [&] {
        Attention<T> attention(a);
        (attention.*method)(BlockInGrid() / tiles, BlockInGrid() % tiles * tile);
      });
    };
    if (!backward) {
      run(kQueryTile, &Attention<T>::Forward);
      return;
    }
    run(kQueryTile, &Attention<T>::BackwardQueries);
    run(kMemoryTile, &Attention<T>::BackwardMemories);
  }

  const DeviceLimits limits_;
};

}  // namespace

std::unique_ptr<Launcher> MakeEmulatedLauncher(const DeviceLimits& limits) {
  return std::make_unique<EmulatedLauncher>(limits);
}

}  // namespace sab::model::cuda
