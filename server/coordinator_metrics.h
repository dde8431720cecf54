#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "sab/v1/job.pb.h"

namespace sab::server {

// Every figure of the coordinator's /metrics, in one place; docs/METRICS.md explains them. Labels come from fixed sets:
// no job id, no worker id. Thread-safe.
class CoordinatorMetrics {
 public:
  explicit CoordinatorMetrics(std::shared_ptr<prometheus::Registry> registry);

  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

  // A job came into, changed or left (UNSPECIFIED on either side) a state.
  void MoveJob(v1::JobState from, v1::JobState to);
  // `outcome`: succeeded, cancelled, failed (by a fault of a process), permanent, lost (a worker), superseded (by a
  // restart of the coordinator), resized, paused, preempted (or moved off a drained worker), time_limit.
  void CountAttempt(const std::string& outcome);
  void SetWorkers(int64_t ready, int64_t lost);
  // `device`: cuda or cpu.
  void SetSlots(const std::string& device, int64_t free, int64_t busy);
  void ObserveRpc(const std::string& method, const std::string& code, absl::Duration duration);

 private:
  const std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Gauge>& jobs_;
  prometheus::Family<prometheus::Counter>& attempts_;
  prometheus::Family<prometheus::Gauge>& workers_;
  prometheus::Family<prometheus::Gauge>& slots_;
  prometheus::Family<prometheus::Counter>& rpc_requests_;
  prometheus::Family<prometheus::Histogram>& rpc_seconds_;

 public:
  prometheus::Histogram& job_queue_seconds;
  prometheus::Histogram& job_first_step_seconds;
  prometheus::Histogram& store_commit_seconds;
  prometheus::Histogram& schedule_seconds;
  prometheus::Counter& store_errors;
  prometheus::Counter& metric_points;
  prometheus::Counter& log_lines;
  prometheus::Counter& checkpoints_recorded;
  prometheus::Counter& checkpoints_dropped;
  prometheus::Counter& checkpoints_damaged;
  prometheus::Counter& checkpoint_bytes;
  prometheus::Counter& train_steps;
  prometheus::Counter& leases_lost;
  prometheus::Counter& streams_cut;
  prometheus::Gauge& watchers;
};

}  // namespace sab::server
