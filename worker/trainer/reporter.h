#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "sab/v1/trainer_service.pb.h"

namespace sab::trainer {

// Sends phase, step and figures to the agent from a thread of its own, at most every 50 ms and at least twice a second,
// so that training never waits and the agent sees that the process lives. Figures that cannot be sent yet are kept, up
// to a bound; then the oldest of training leave first. Thread-safe.
class Reporter {
 public:
  struct Options {
    std::function<absl::Status(const v1::ReportProgressRequest&)> send;  // by AgentClient::ReportProgress
    // Called on the reporter's thread, once, with the reason: the agent answered ABORTED (`unwanted`), or none answered
    // for `patience`.
    std::function<void(const std::string& reason, bool unwanted)> on_lost;
    // Asked before each report, on the reporter's thread; may be empty.
    std::function<v1::TrainerPulse()> pulse;
    absl::Duration patience = absl::Seconds(10);
    size_t max_points = 20000;
    const Clock* clock = &SystemClock();
  };
  explicit Reporter(Options options);
  ~Reporter();

  void SetPhase(v1::TrainerPhase phase) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetRestored(const v1::Restoration& restored) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetStep(int64_t step, int64_t skipped_steps) ABSL_LOCKS_EXCLUDED(mutex_);
  void Add(v1::MetricPoint point) ABSL_LOCKS_EXCLUDED(mutex_);
  // Sends soon: something that people wait for.
  void Flush() ABSL_LOCKS_EXCLUDED(mutex_);

  // The last report, with all figures that are left. Returns when the agent has it, or has not answered for `patience`.
  // Once.
  void Succeed(const std::string& stop_reason) ABSL_LOCKS_EXCLUDED(mutex_);
  void Fail(const std::string& failure, bool permanent) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends without a last report; returns the figures that are left, for the reporter of the trainer that this process
  // becomes. Once, in place of the above.
  std::deque<v1::MetricPoint> Abandon() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  void AwaitNews() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::ReportProgressRequest TakeBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PutBack(v1::ReportProgressRequest request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Trim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End() ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  Mutex mutex_;
  CondVar changed_;
  v1::ReportProgressRequest state_ ABSL_GUARDED_BY(mutex_);  // everything but the points; phase PREPARING at first
  std::deque<v1::MetricPoint> points_ ABSL_GUARDED_BY(mutex_);
  bool flush_ ABSL_GUARDED_BY(mutex_) = true;  // that it prepares is told at once
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace sab::trainer
