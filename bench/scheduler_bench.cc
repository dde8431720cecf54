// The production scheduler under a virtual clock. `scheduler_bench [--seeds N] [--workers N] [--jobs N] [--seed N]`:
// with --seeds, N small seeded clusters with every invariant checked; without, a large cluster, timed.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/util/scheduler_simulation.h"

namespace {

using sab::testing_util::Simulate;
using sab::testing_util::SimulationOptions;
using sab::testing_util::SimulationReport;

// Of this thread's processor time: what else runs on the machine does not count.
double CpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

int PrintViolations(const SimulationReport& report) {
  for (const std::string& violation : report.violations) std::printf("VIOLATION %s\n", violation.c_str());
  return report.violations.empty() ? 0 : 1;
}

int CheckSeeds(int64_t seeds) {
  int64_t starts = 0, preemptions = 0, losses = 0;
  int failed = 0;
  for (int64_t i = 0; i < seeds; ++i) {
    SimulationOptions options{.seed = static_cast<uint64_t>(i + 1)};
    if (i % 3 == 1) options.arrivals = absl::ZeroDuration();
    if (i % 3 == 1) options.losses_per_hour = 12;
    if (i % 3 == 2) options.one_priority = true;
    if (i % 6 == 2) options.mixed_hardware = false;
    const SimulationReport report = Simulate(options);
    failed += PrintViolations(report);
    starts += report.starts;
    preemptions += report.preemptions;
    losses += report.worker_losses;
  }
  std::printf("%lld seeds: %lld starts, %lld preemptions, %lld workers lost; %d seeds with a violation\n",
              static_cast<long long>(seeds), static_cast<long long>(starts), static_cast<long long>(preemptions),
              static_cast<long long>(losses), failed);
  return failed > 0;
}

int RunLarge(const char* name, SimulationOptions options) {
  options.stopwatch = CpuSeconds;
  const SimulationReport report = Simulate(options);
  const double decisions = static_cast<double>(report.starts + report.preemptions + report.given_back);
  std::printf("\n%s: %d workers of %d slots, %d jobs, up to %lld waiting, %.1f h of virtual time\n", name,
              options.workers, options.slots_per_worker, options.jobs, static_cast<long long>(report.most_waiting),
              absl::ToDoubleHours(report.span));
  std::printf(
      "  decisions       %.0f (%lld starts of %lld ranks, %lld preemptions, %lld made to give back; %lld workers "
      "lost)\n",
      decisions, static_cast<long long>(report.starts), static_cast<long long>(report.ranks),
      static_cast<long long>(report.preemptions), static_cast<long long>(report.given_back),
      static_cast<long long>(report.worker_losses));
  std::printf("  decisions/s     %.0f of the scheduler's processor time (%.3f s, indexes included)\n",
              decisions / report.scheduling_seconds, report.scheduling_seconds);
  std::printf("  one round       p50 %.1f us, p99 %.1f us, longest %.1f us (%lld rounds)\n",
              1e6 * Quantile(report.round_seconds, 0.5), 1e6 * Quantile(report.round_seconds, 0.99),
              1e6 * Quantile(report.round_seconds, 1), static_cast<long long>(report.rounds));
  std::printf("  slots in use    %.1f %% while a job waited\n", 100 * report.utilisation);
  std::printf("  waiting, h      replicas      starts     p50     p99     max\n");
  for (const auto& [replicas, waits] : report.wait_seconds) {
    std::printf("                  up to %5lld %8zu %7.2f %7.2f %7.2f\n", static_cast<long long>(replicas),
                waits.size(), Quantile(waits, 0.5) / 3600, Quantile(waits, 0.99) / 3600, Quantile(waits, 1) / 3600);
  }
  return PrintViolations(report);
}

// The value of `--name N`, or `otherwise`.
int64_t Option(int argc, char** argv, const char* name, int64_t otherwise) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], name) == 0) return std::atoll(argv[i + 1]);
  }
  return otherwise;
}

}  // namespace

int main(int argc, char** argv) {
  if (const int64_t seeds = Option(argc, argv, "--seeds", 0); seeds > 0) return CheckSeeds(seeds);
  SimulationOptions options{.seed = static_cast<uint64_t>(Option(argc, argv, "--seed", 1)),
                            .workers = static_cast<int>(Option(argc, argv, "--workers", 1000)),
                            .slots_per_worker = 8,
                            .jobs = static_cast<int>(Option(argc, argv, "--jobs", 10000)),
                            .losses_per_hour = 20,
                            .check = false};
  options.arrivals = absl::ZeroDuration();
  int failed = RunLarge("all at once", options);
  options.arrivals = absl::Hours(16);
  failed += RunLarge("over 16 hours", options);
  options.one_priority = true;
  failed += RunLarge("over 16 hours, one queue, one priority", options);
  return failed > 0;
}
