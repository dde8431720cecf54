// One training configuration of our engine, driven from outside so that a peer can take turns with it (see engine.py).
//
//   bench_engine SYSTEM STEPS HIDDEN BATCH THREADS [ENGINE [DEVICE]]
//   bench_engine profile SYSTEM STEPS HIDDEN BATCH      the parts of a step on one thread, and this machine's ceilings
// A SYSTEM that ends in _alike gets the same input at every step but the first ten: memories become nearly equal.
// Reads lines from standard input: `step` runs one training step and answers with its milliseconds; at the end of the
// input it answers with the peak of memory above what it was before the first step (resident; on a GPU, device memory
// of this process's allocator), and the predicted one, in bytes.
#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/collective/collective.h"
#include "model/cuda/plan.h"
#include "model/engine.h"
#include "model/fast/fast_engine.h"
#include "model/fast/footprint.h"
#include "model/fast/plan.h"

namespace {

using sab::model::Batch;
using sab::model::ModelConfig;
using sab::model::TaskShape;

// A line of /proc/self/status, in bytes.
long StatusBytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind(key + ":", 0) == 0) return std::atol(line.c_str() + key.size() + 1) * 1024;
  }
  return 0;
}

// Memory in use: resident, or of the GPU's caching allocator.
struct MemoryBytes {
  long now = 0;
  long peak = 0;
};

MemoryBytes MemoryOf(at::Device device) {
  if (device.is_cpu()) return {StatusBytes("VmRSS"), StatusBytes("VmHWM")};
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
  if (allocator == nullptr) throw std::runtime_error("the GPU's allocator keeps no statistics");
  const auto bytes = allocator->getDeviceStats(device.index()).allocated_bytes[0];  // of all pools together
  return {static_cast<long>(bytes.current), static_cast<long>(bytes.peak)};
}

bool IsAlike(const std::string& system) {
  return system.ends_with("_alike");
}

ModelConfig ConfigOf(std::string system, int64_t hidden, const std::string& engine) {
  if (IsAlike(system)) system.resize(system.size() - 6);
  ModelConfig config;
  config.hidden_size = hidden;
  config.engine = engine == "reference" ? sab::model::EngineKind::kReference : sab::model::EngineKind::kFast;
  if (engine == "recompute") config.recompute = sab::model::Recompute::kOn;
  if (engine == "keep") config.recompute = sab::model::Recompute::kOff;
  if (system == "separable") config.score = sab::model::Score::kSeparable;
  if (system == "bounded") config.memory_capacity = 64;
  if (system == "recall_all") config.recall = sab::model::Recall::kAll;
  if (system == "recall_random") config.recall = sab::model::Recall::kRandom;
  if (system == "lstm" || system == "lstm_truncated") config.kind = sab::model::Kind::kLstm;
  if (system == "lstm") config.k_trunc = 0;
  if (system == "attention") config.kind = sab::model::Kind::kAttention;
  return config;
}

Batch MakeBatch(int64_t rows, int64_t steps, bool alike, at::Device device = at::kCPU) {
  Batch batch;
  batch.inputs = at::rand({rows, steps, 1});
  if (alike && steps > 10) batch.inputs.narrow(1, 10, steps - 10).zero_();
  batch.inputs = batch.inputs.to(device);
  batch.targets = at::randint(0, 10, {rows, steps}, at::kLong).to(device);
  return batch;
}

double Seconds(const std::function<void()>& work, int repeats) {
  double best = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// Multiply-adds a second of the library's large matrix product, and tanh a second of our own loop in the first-level
// cache.
double ProductCeiling() {
  const at::Tensor a = at::rand({1024, 1024}), b = at::rand({1024, 1024});
  return 1024.0 * 1024 * 1024 / Seconds([&] { at::mm(a, b); }, 10);
}

double TanhCeiling() {
  std::vector<float> x(2048, 0.5f), y(2048);
  const auto& kernels = sab::model::fast::BestKernels<float>();
  return 2048.0 * 100 /
         Seconds(
             [&] {
               for (int i = 0; i < 100; ++i) kernels.apply(1, x.data(), y.data(), 2048);
             },
             10);
}

// Multiply-adds in matrix products of one training step, and terms w tanh(k + q) of its scores.
struct Work {
  double products = 0;
  double tanhs = 0;
};

Work WorkOf(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps) {
  const double h = static_cast<double>(config.hidden_size), row_steps = static_cast<double>(rows * steps);
  const bool attends = config.kind != sab::model::Kind::kLstm;
  double per_step = 3 * (4 * h * h) + 3 * h * static_cast<double>(shape.outputs) * (attends ? 2 : 1);
  if (config.k_trunc > 0) per_step -= 4 * h * h / static_cast<double>(config.k_trunc);
  const bool keys = config.kind == sab::model::Kind::kAttention || (attends && config.score == sab::model::Score::kMlp);
  const double writes = config.kind == sab::model::Kind::kAttention ? 1 : 1.0 / static_cast<double>(config.k_att);
  if (keys) per_step += 3 * h * h * (1 + writes);
  return {row_steps * per_step, keys ? row_steps * static_cast<double>(steps) / 2 * writes * h : 0};
}

int Profile(int argc, char** argv) {
  if (argc < 6) throw std::invalid_argument("usage: bench_engine profile SYSTEM STEPS HIDDEN BATCH");
  const int64_t steps = std::atol(argv[3]), hidden = std::atol(argv[4]), rows = std::atol(argv[5]);
  at::set_num_threads(1);
  const ModelConfig config = ConfigOf(argv[2], hidden, "keep");
  const TaskShape shape;
  sab::model::ParameterSet parameters(config, shape, at::kCPU);
  const auto parts = ProfileFastStep(config, shape, parameters, MakeBatch(rows, steps, IsAlike(argv[2])));
  double total = 0;
  for (const auto& [name, seconds] : parts) total += seconds;
  std::printf("%s, T=%ld, H=%ld, B=%ld: %.1f ms on one thread\n", argv[2], steps, hidden, rows, total * 1e3);
  for (const auto& [name, seconds] : parts) {
    if (seconds > 0.0005 * total)
      std::printf("  %-20s %8.2f ms %5.1f %%\n", name.c_str(), seconds * 1e3, 100 * seconds / total);
  }
  const Work work = WorkOf(config, shape, rows, steps);
  const double product_ceiling = ProductCeiling(), tanh_ceiling = TanhCeiling();
  std::printf("  matrix products alone at the library's speed (%.0f GFLOP/s): %.1f ms, %.0f %% of the step\n",
              2e-9 * product_ceiling, work.products / product_ceiling * 1e3,
              100 * work.products / product_ceiling / total);
  if (work.tanhs > 0) {
    std::printf("  score terms at the speed of our tanh (%.2f a nanosecond): %.1f ms; the step took %.1f ms for them\n",
                1e-9 * tanh_ceiling, work.tanhs / tanh_ceiling * 1e3, parts[3].second * 1e3);
  }
  return 0;
}

int Run(int argc, char** argv) {
  if (argc < 6)
    throw std::invalid_argument(
        "usage: bench_engine SYSTEM STEPS HIDDEN BATCH THREADS [fast|reference|recompute|keep [cpu|cuda]]");
  const int64_t steps = std::atol(argv[2]), hidden = std::atol(argv[3]), rows = std::atol(argv[4]);
  const int threads = std::atoi(argv[5]);
  at::set_num_threads(threads);
  const ModelConfig config = ConfigOf(argv[1], hidden, argc > 6 ? argv[6] : "fast");
  const TaskShape shape;
  const bool cuda = argc > 7 && std::string(argv[7]) == "cuda";
  if (cuda) sab::model::LoadCudaLibraries();
  const at::Device device = cuda ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  sab::model::ParameterSet parameters(config, shape, device);
  const std::unique_ptr<sab::model::Engine> engine = MakeEngine(config, shape, parameters);
  const Batch batch = MakeBatch(rows, steps, IsAlike(argv[1]), device);
  const double scale = 1.0 / static_cast<double>(rows * steps);
  const long before = MemoryOf(device).now;
  std::string command;
  while (std::getline(std::cin, command)) {
    const auto start = std::chrono::steady_clock::now();
    engine->ForwardBackward(batch, scale);  // its sums come back when the device has them: everything is done then
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    std::cout << took.count() << std::endl;
  }
  std::cout << MemoryOf(device).peak - before << " "
            << (cuda ? sab::model::cuda::TrainingBytes(config, shape, rows, steps)
                     : sab::model::fast::TrainingBytes(config, shape, rows, steps, threads))
            << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return argc > 1 && std::string(argv[1]) == "profile" ? Profile(argc, argv) : Run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_engine: %s\n", e.what());
    return 2;
  }
}
