#include "server/coordinator_metrics.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace sab::server {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Registry;

const std::vector<double> kQueueBuckets = {0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1800, 7200, 43200};
const std::vector<double> kScheduleBuckets = {0.00001, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1};
const std::vector<double> kRpcBuckets = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30};

prometheus::Counter& Counter(Registry& registry, const char* name, const char* help) {
  return BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Histogram& Histogram(Registry& registry, const char* name, const char* help,
                                 const std::vector<double>& buckets) {
  return BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
}

std::string Label(v1::JobState state) {
  std::string name = v1::JobState_Name(state).substr(sizeof("JOB_STATE_") - 1);
  std::transform(name.begin(), name.end(), name.begin(), [](char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

}  // namespace

CoordinatorMetrics::CoordinatorMetrics(std::shared_ptr<Registry> registry)
    : registry_(std::move(registry)),
      jobs_(BuildGauge().Name("sab_jobs").Help("Jobs that exist, by state.").Register(*registry_)),
      attempts_(
          BuildCounter().Name("sab_attempts_total").Help("Attempts that ended, by outcome.").Register(*registry_)),
      workers_(BuildGauge().Name("sab_workers").Help("Workers known, by state.").Register(*registry_)),
      slots_(BuildGauge().Name("sab_slots").Help("Slots of ready workers, by device and state.").Register(*registry_)),
      rpc_requests_(BuildCounter()
                        .Name("sab_rpc_requests_total")
                        .Help("RPCs answered, by method and code.")
                        .Register(*registry_)),
      rpc_seconds_(BuildHistogram()
                       .Name("sab_rpc_duration_seconds")
                       .Help("Time from an RPC's arrival to its status; held calls and streams include their wait.")
                       .Register(*registry_)),
      job_queue_seconds(Histogram(*registry_, "sab_job_queue_seconds",
                                  "Time from a job's creation to its first attempt.", kQueueBuckets)),
      job_first_step_seconds(Histogram(*registry_, "sab_job_first_step_seconds",
                                       "Time from an attempt's start to its first training step.", kQueueBuckets)),
      store_commit_seconds(
          Histogram(*registry_, "sab_store_commit_seconds", "Time of a synced commit to the store.", kRpcBuckets)),
      schedule_seconds(Histogram(*registry_, "sab_schedule_seconds", "Time of deciding what starts, commits excluded.",
                                 kScheduleBuckets)),
      store_errors(Counter(*registry_, "sab_store_errors_total", "Commits to the store that failed.")),
      metric_points(Counter(*registry_, "sab_metric_points_total", "Training and evaluation figures stored.")),
      log_lines(Counter(*registry_, "sab_log_lines_total", "Lines of trainers' output received.")),
      checkpoints_recorded(Counter(*registry_, "sab_checkpoints_recorded_total", "Checkpoints verified and recorded.")),
      checkpoints_dropped(Counter(*registry_, "sab_checkpoints_dropped_total", "Checkpoints removed by retention.")),
      checkpoints_damaged(
          Counter(*registry_, "sab_checkpoints_damaged_total", "Checkpoints found damaged before a restart.")),
      checkpoint_bytes(Counter(*registry_, "sab_checkpoint_bytes_total", "Bytes of checkpoints recorded.")),
      train_steps(Counter(*registry_, "sab_train_steps_total", "Training steps reported, repeated ones included.")),
      leases_lost(Counter(*registry_, "sab_leases_lost_total", "Leases of workers that ended.")),
      streams_cut(
          Counter(*registry_, "sab_streams_cut_total", "Streams that were cut because their readers took nothing.")),
      watchers(BuildGauge()
                   .Name("sab_watch_streams")
                   .Help("Open watch, metric, log and download streams.")
                   .Register(*registry_)
                   .Add({})) {
  for (int state = v1::JobState_MIN + 1; state <= v1::JobState_MAX; ++state) {
    jobs_.Add({{"state", Label(static_cast<v1::JobState>(state))}});
  }
  // From 0, so that increase() sees the first one of each.
  for (const char* outcome : {"succeeded", "cancelled", "failed", "permanent", "lost", "superseded", "resized",
                              "paused", "preempted", "time_limit"})
    attempts_.Add({{"outcome", outcome}});
  SetWorkers(0, 0);
}

void CoordinatorMetrics::MoveJob(v1::JobState from, v1::JobState to) {
  if (from != v1::JOB_STATE_UNSPECIFIED) jobs_.Add({{"state", Label(from)}}).Decrement();
  if (to != v1::JOB_STATE_UNSPECIFIED) jobs_.Add({{"state", Label(to)}}).Increment();
}

void CoordinatorMetrics::CountAttempt(const std::string& outcome) {
  attempts_.Add({{"outcome", outcome}}).Increment();
}

void CoordinatorMetrics::SetWorkers(int64_t ready, int64_t lost) {
  workers_.Add({{"state", "ready"}}).Set(static_cast<double>(ready));
  workers_.Add({{"state", "lost"}}).Set(static_cast<double>(lost));
}

void CoordinatorMetrics::SetSlots(const std::string& device, int64_t free, int64_t busy) {
  slots_.Add({{"device", device}, {"state", "free"}}).Set(static_cast<double>(free));
  slots_.Add({{"device", device}, {"state", "busy"}}).Set(static_cast<double>(busy));
}

void CoordinatorMetrics::ObserveRpc(const std::string& method, const std::string& code, absl::Duration duration) {
  rpc_requests_.Add({{"method", method}, {"code", code}}).Increment();
  rpc_seconds_.Add({{"method", method}}, kRpcBuckets).Observe(absl::ToDoubleSeconds(duration));
}

}  // namespace sab::server
