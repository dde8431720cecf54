#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduling/scheduling.h"

namespace sab::testing_util {

// A cluster under the production scheduler and a virtual clock: jobs arrive, run, end, are preempted and lose their
// workers, all drawn from a seed. Checks every decision against a model of its own.
struct SimulationOptions {
  uint64_t seed = 1;
  int workers = 8;
  int slots_per_worker = 4;
  int jobs = 40;
  absl::Duration arrivals = absl::Hours(2);        // jobs arrive evenly over so long; zero: all at once
  absl::Duration longest_job = absl::Minutes(60);  // of their true durations
  double losses_per_hour = 1;                      // of workers, in the whole cluster
  bool one_priority = false;                       // and one queue
  bool mixed_hardware = true;                      // CPU workers and GPUs of two sizes
  int elastic_percent = 30;                        // of the jobs are content with fewer ranks than they ask for
  bool memory = true;                              // CPU slots share their worker's memory
  bool check = true;                               // invariants, which costs time
  // Wall time in seconds, for the latencies; absent: they are not measured.
  std::function<double()> stopwatch;
};

struct SimulationReport {
  int64_t starts = 0, ranks = 0, preemptions = 0, worker_losses = 0, finished = 0;
  int64_t growths = 0, shrinks = 0;  // of elastic jobs; shrinks: when workers are lost
  int64_t given_back = 0;            // shrinks for jobs that wait
  int64_t rounds = 0, most_waiting = 0;
  double scheduling_seconds = 0;                        // in the scheduler and its indexes
  std::vector<double> round_seconds;                    // each round with a job waiting
  double utilisation = 0;                               // of the slots while a job waited
  absl::Duration span;                                  // virtual
  std::map<int64_t, std::vector<double>> wait_seconds;  // by replicas, rounded up to a power of two
  uint64_t digest = 0;                                  // of all decisions
  std::vector<std::string> violations;                  // at most 20
};

SimulationReport Simulate(const SimulationOptions& options);

}  // namespace sab::testing_util
