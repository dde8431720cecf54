// One training configuration of our engine, driven from outside so that a peer can take turns with it (see engine.py).
//
//   bench_engine SYSTEM STEPS HIDDEN BATCH THREADS [ENGINE]
// Reads lines from standard input: `step` runs one training step and answers with its milliseconds; at the end of the input it
// answers with the peak of resident memory above what it was before the first step, and the predicted one, in bytes.
#include <ATen/Parallel.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>

#include "model/engine.h"
#include "model/fast/footprint.h"

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

ModelConfig ConfigOf(const std::string& system, int64_t hidden, const std::string& engine) {
  ModelConfig config;
  config.hidden_size = hidden;
  config.engine = engine == "reference" ? sab::model::EngineKind::kReference : sab::model::EngineKind::kFast;
  if (engine == "recompute") config.recompute = sab::model::Recompute::kOn;
  if (engine == "keep") config.recompute = sab::model::Recompute::kOff;
  if (system == "separable") config.score = sab::model::Score::kSeparable;
  if (system == "bounded") config.memory_capacity = 64;
  if (system == "lstm" || system == "lstm_truncated") config.kind = sab::model::Kind::kLstm;
  if (system == "lstm") config.k_trunc = 0;
  if (system == "attention") config.kind = sab::model::Kind::kAttention;
  return config;
}

Batch MakeBatch(int64_t rows, int64_t steps) {
  Batch batch;
  batch.inputs = at::rand({rows, steps, 1});
  batch.targets = at::randint(0, 10, {rows, steps}, at::kLong);
  return batch;
}

int Run(int argc, char** argv) {
  if (argc < 6) throw std::invalid_argument("usage: bench_engine SYSTEM STEPS HIDDEN BATCH THREADS [fast|reference|recompute|keep]");
  const int64_t steps = std::atol(argv[2]), hidden = std::atol(argv[3]), rows = std::atol(argv[4]);
  const int threads = std::atoi(argv[5]);
  at::set_num_threads(threads);
  const ModelConfig config = ConfigOf(argv[1], hidden, argc > 6 ? argv[6] : "fast");
  const TaskShape shape;
  sab::model::ParameterSet parameters(config, shape, at::kCPU);
  const std::unique_ptr<sab::model::Engine> engine = MakeEngine(config, shape, parameters);
  const Batch batch = MakeBatch(rows, steps);
  const double scale = 1.0 / static_cast<double>(rows * steps);
  const long before = StatusBytes("VmRSS");
  std::string command;
  while (std::getline(std::cin, command)) {
    const auto start = std::chrono::steady_clock::now();
    engine->ForwardBackward(batch, scale);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    std::cout << took.count() << std::endl;
  }
  std::cout << StatusBytes("VmHWM") - before << " "
            << sab::model::fast::TrainingBytes(config, shape, rows, steps, threads) << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_engine: %s\n", e.what());
    return 2;
  }
}
