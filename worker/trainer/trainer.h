#pragma once

#include <memory>
#include <string>

#include "model/collective/collective.h"
#include "sab/v1/trainer_service.grpc.pb.h"
#include "worker/trainer/agent_client.h"
#include "worker/trainer/progress.h"
#include "worker/trainer/pulse.h"
#include "worker/trainer/reporter.h"
#include "worker/trainer/stop.h"

namespace sab::trainer {

// A process's copy of a job: the network, the optimiser and where training is. It outlives attempts, so that a rank
// whose peer died goes on from its memory. One thread calls.
class Replica {
 public:
  // `pulse` outlives this.
  explicit Replica(PulseMeter& pulse);
  ~Replica();

  // What one run works with; all outlive it.
  struct Connections {
    AgentClient& agent;
    std::shared_ptr<v1::TrainerService::Stub> stub;  // for what may be told after the run
    Reporter& reporter;
    StopRequest& interruption;  // makes the run end soon, with what is in memory consistent
  };
  // Runs one trainer from its assignment to its end: from memory if it says so and this is the same job, from its
  // checkpoint or the beginning else. Returns why training ended, "" when it was interrupted. Blocks; on the calling
  // thread. Throws what a user is told: std::invalid_argument and model::PermanentError for what a restart cannot mend,
  // model::CollectiveError when a peer is gone, other std::exception for the rest. After "" and CollectiveError it may
  // be called again.
  std::string Run(const v1::GetAssignmentResponse& assignment, const Connections& with);

  // Does once what is slow the first time that a process does it: a standby does it before it is needed.
  static void WarmUp();

 private:
  struct Parts;
  void Build(const v1::GetAssignmentResponse& assignment);
  std::string TrainPieces(const v1::TrainerAssignment& mine, model::Collective& collective, Progress& progress,
                          StopRequest& stop);
  void Configure(const v1::JobSpec& spec, const v1::TrainerAssignment& mine, model::Collective& collective,
                 Progress& progress);

  PulseMeter& pulse_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace sab::trainer
