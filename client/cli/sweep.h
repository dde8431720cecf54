#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/spec/halving.h"

namespace sab::client {

// One job of a sweep: what it sets, ("train.learning_rate", "0.001"), in the order of the file.
using SweepPoint = std::vector<std::pair<std::string, std::string>>;

// `halving:` of a sweep: the trials meet at rungs, and the best go on.
struct SweepHalving {
  std::string metric;
  std::string mode;  // "max" or "min"; empty: by the metric
  int64_t factor = spec::kHalvingFactor;
  int64_t first = 0;  // step of the first rung; each is `factor` times the one before
};

struct Sweep {
  std::vector<SweepPoint> points;
  int64_t max_parallel = 0;  // 0: no bound
  std::optional<SweepHalving> halving;
};

// A job file with a `sweep:` section, taken apart. The rest has empty lines in its place, so that the lines of messages
// stay right.
struct SweepFile {
  std::string job;             // the file without the section
  std::optional<Sweep> sweep;  // absent: it has none
};

// The section, in block style at the top level:
//   sweep:
//     grid: {train.learning_rate: [1.0e-3, 1.0e-4], model.k_top: [3, 5]}      every combination, the last one fastest
//     random: {train.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true},    drawn from `seed`: a list is chosen
//     from,
//              model.k_top: {low: 1, high: 10, integer: true}}                 a range is drawn from evenly (log: in
//              its
//     trials: 20                                                               logarithm)
//     seed: 1
//     max_parallel: 4
//     halving: {metric: accuracy, mode: max, factor: 3, first: 500}            mode and factor may be left out
// With both grid and random, every drawn point runs with every combination. At most 10,000 jobs. The same file gives
// the same points. InvalidArgument (InvalidFields, with lines) lists what is wrong with the section; what it sets is
// not checked here.
absl::StatusOr<SweepFile> SplitSweep(std::string_view text);

// One rung of a sweep, and how many go on there.
struct Rung {
  int64_t step = 0;
  int64_t places = 0;
};
// The rungs below `steps` for so many trials: none after the one where a single trial goes on.
std::vector<Rung> RungsOf(const SweepHalving& halving, int64_t trials, int64_t steps);

}  // namespace sab::client
