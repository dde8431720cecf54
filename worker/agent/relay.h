#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "sab/v1/agent_service.grpc.pb.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/cancellation.h"
#include "worker/agent/metric_buffer.h"
#include "worker/agent/reconcile.h"

namespace sab::agent {

// Passes what one trainer says on to the coordinator: figures and lines in batches, checkpoints one by one until each
// is recorded. Adding never blocks. While the coordinator is away everything waits, bounded: figures as MetricBuffer
// says, lines the oldest first. Told ABORTED or NOT_FOUND it drops that kind of thing from then on. Thread-safe.
class Relay {
 public:
  struct Options {
    std::string worker;  // "workers/{worker}"
    TrainerKey key;
    std::string checkpoint_parent;  // folder the trainer writes checkpoints under
    bool upload = false;            // the coordinator does not see that folder
    size_t metric_capacity = 50'000;
    size_t line_capacity = 10'000;
    absl::Duration batch_interval = absl::Milliseconds(100);  // between two batches of the same trainer
  };
  // `agents` and `metrics` outlive this. `drained` is called, without locks, once all is passed on after Finish.
  Relay(Options options, v1::AgentService::StubInterface* agents, AgentMetrics* metrics, std::function<void()> drained);
  // Drops what waits.
  ~Relay();

  void AddPoints(const google::protobuf::RepeatedPtrField<v1::MetricPoint>& points, int64_t step);
  // Takes back the figures that have not been sent yet.
  google::protobuf::RepeatedPtrField<v1::MetricPoint> TakePoints();
  void AddLines(const std::vector<std::string>& lines);
  void AddCheckpoint(v1::Checkpoint checkpoint);
  // Nothing more will be added.
  void Finish();
  // Everything has been passed on or dropped, and Finish was called.
  bool IsDrained();
  // Why the last checkpoint that was not superseded by a later one could not be recorded; "" when it could.
  std::string CheckpointError();
  // Gives up: calls in progress end, nothing is sent any more.
  void Cancel();

 private:
  void RunStream();
  void RunCheckpoints();
  bool SendMetrics();
  bool SendLines();
  absl::Status Record(const v1::Checkpoint& checkpoint);
  void RemoveLocalCopies(const v1::Checkpoint& recorded);
  bool DrainedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CheckDrained();

  const Options options_;
  v1::AgentService::StubInterface* const agents_;
  AgentMetrics* const metrics_;
  const std::function<void()> on_drained_;
  Cancellation cancellation_;

  Mutex mutex_;
  CondVar changed_;
  MetricBuffer points_ ABSL_GUARDED_BY(mutex_);
  int64_t step_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  int64_t first_line_ ABSL_GUARDED_BY(mutex_) = 0;  // number of lines_.front()
  std::deque<v1::Checkpoint> checkpoints_ ABSL_GUARDED_BY(mutex_);
  std::string checkpoint_error_ ABSL_GUARDED_BY(mutex_);
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;
  bool recording_ ABSL_GUARDED_BY(mutex_) = false;
  bool metrics_refused_ ABSL_GUARDED_BY(mutex_) = false;
  bool lines_refused_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool drained_told_ ABSL_GUARDED_BY(mutex_) = false;

  int64_t next_batch_ = 1;      // the stream thread's own
  std::string recorded_local_;  // the checkpoint thread's own: folder of the last recorded one
  std::thread stream_thread_;
  std::thread checkpoint_thread_;
};

}  // namespace sab::agent
