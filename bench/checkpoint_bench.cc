// How long a checkpoint keeps the training from going on: an Adam update of N parameters, the hand-over of the state to
// the checkpoint's writer, and the update that follows it, which writes into the other buffers. checkpoint_bench [MIB]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "model/train/optimizer.h"

namespace sab::model {
namespace {

template <typename Body>
double Milliseconds(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Run(int64_t mib) {
  at::set_num_threads(1);
  at::Tensor values = at::ones({mib * (1 << 20) / 4}), gradients = at::full_like(values, 0.01);
  const auto optimizer = MakeOptimizer({}, values);
  const auto step = [&] { return Milliseconds([&] { optimizer->Step(values, gradients, 1e-3, 1); }); };
  const auto save = [&](std::vector<double>* frozen, std::vector<double>* after) {
    FrozenState state;
    frozen->push_back(Milliseconds([&] { state = optimizer->Freeze(values); }));
    after->push_back(step());
  };
  const double reserve = Milliseconds([&] { optimizer->Reserve(values); });
  for (int i = 0; i < 3; ++i) step();
  std::vector<double> first_freeze, first_after, freeze, after, plain;
  save(&first_freeze, &first_after);
  for (int i = 0; i < 11; ++i) {
    plain.push_back(step());
    save(&freeze, &after);
  }
  std::printf("%-58s %10s\n", "one rank, one thread, Adam", "ms");
  std::printf("%-58s %10.3f\n", "an update", Median(plain));
  std::printf("%-58s %10.3f\n", "handing the state over to the writer", Median(freeze));
  std::printf("%-58s %10.3f\n", "the update after that", Median(after));
  std::printf("%-58s %10.3f\n", "handing over for the first time", first_freeze[0]);
  std::printf("%-58s %10.3f\n", "the update after that", first_after[0]);
  std::printf("%-58s %10.3f\n", "making the second buffers, before the first step", reserve);
  std::printf("parameters %ld MiB, second buffers %ld MiB\n", static_cast<long>(mib), static_cast<long>(3 * mib));
}

}  // namespace
}  // namespace sab::model

int main(int argc, char** argv) {
  sab::model::Run(argc > 1 ? std::atoll(argv[1]) : 100);
}
