#pragma once

#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/checkpoint/safetensors.h"
#include "model/parameters.h"
#include "model/train/train_loop.h"
#include "sab/v1/agent_service.pb.h"

namespace sab::trainer {

// A contiguous tensor on the CPU, of type float, double or int64, as a file holds it. Valid as long as the tensor.
TensorView ViewOf(const model::NamedTensor& named);

// What a checkpoint holds, in memory that training does not write to.
struct Snapshot {
  model::TrainState state;
  std::vector<model::NamedTensor> parameters;  // on the CPU
  std::vector<model::NamedTensor> optimizer;   // on the CPU
};
// Nothing is copied: `frozen` is of these parameters.
Snapshot TakeSnapshot(const model::TrainState& state, const model::ParameterSet& parameters,
                      const model::FrozenState& frozen);

// What goes into every checkpoint of a job besides the snapshot.
struct CheckpointContext {
  std::string parent;  // folder
  v1::TrainerId id;
  v1::JobSpec spec;
  int world_size = 1;
  std::string vocabulary;
  model::TaskShape shape;  // so that what is done with the parameters later needs no training data
};

// Writes one checkpoint, complete on return. ResourceExhausted: the disk is full.
absl::StatusOr<v1::Checkpoint> WriteCheckpoint(const CheckpointContext& context, const Snapshot& snapshot);

// A checkpoint read back.
struct Restored {
  model::TrainState state;
  std::string vocabulary;
  std::vector<model::NamedTensor> parameters;
  std::vector<model::NamedTensor> optimizer;
  std::optional<model::TaskShape> shape;  // absent in checkpoints of earlier versions
  bool parameters_only = false;           // training begins with them, at step 0
};
// Verifies `folder` and reads it. DataLoss names the file and what is wrong.
absl::StatusOr<Restored> ReadCheckpoint(const std::string& folder);

// Makes another job's checkpoint the beginning of one with `spec`, as its init_from says: without its end, and perhaps
// without optimiser and step.
void BeginFrom(const v1::JobSpec& spec, Restored& restored);

// Fills in the parameters of a network. FailedPrecondition names the parameter that is missing or has another shape.
absl::Status RestoreParameters(const Restored& restored, model::ParameterSet& parameters);

// Removes what other processes that were killed in the middle of a checkpoint left in `parent`.
void RemoveUnfinishedCheckpoints(const std::string& parent);

// Writes checkpoints and tells the agent, on a thread of its own while training goes on; one at a time. Lives as long
// as the process: what it writes for one attempt may be ready in the next one, and is then refused and removed.
class CheckpointWorker {
 public:
  struct Order {
    CheckpointContext context;
    Snapshot snapshot;
    std::function<absl::Status(const v1::Checkpoint&)> publish;  // called on the worker's thread
  };
  CheckpointWorker();
  ~CheckpointWorker();

  // Hands an order over; waits while the one before is still being written. A checkpoint that cannot be written (a full
  // disk) is logged, and training goes on: the one before remains the latest.
  void Submit(Order order) ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until all is written and told. The error of the last order.
  absl::Status Finish() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  void AwaitIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  CondVar changed_;
  std::optional<Order> waiting_ ABSL_GUARDED_BY(mutex_);  // being written or about to be
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);  // of the last order
  std::thread thread_;                           // last: it uses all of the above
};

}  // namespace sab::trainer
