#pragma once

#include <string>

#include "worker/trainer/agent_client.h"
#include "worker/trainer/reporter.h"
#include "worker/trainer/stop.h"

namespace sab::trainer {

// Runs one trainer from its assignment to its end. Returns why training ended, "" when it was stopped. Blocks; on the
// calling thread. Throws what a user is told: std::invalid_argument and model::PermanentError for what a restart cannot
// mend, model::CollectiveError when a peer is gone, other std::exception for the rest.
std::string RunTrainer(const v1::GetAssignmentResponse& assignment, AgentClient& agent, Reporter& reporter,
                       StopRequest& stop);

}  // namespace sab::trainer
