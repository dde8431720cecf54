#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sab/v1/agent_service.grpc.pb.h"
#include "sab/v1/checkpoint_service.grpc.pb.h"
#include "worker/agent/cancellation.h"

namespace sab::agent {

// Sends the files of the complete checkpoint in `folder`, the manifest last, once. The coordinator's errors; Cancelled.
// `sent` is told the bytes of every chunk.
absl::Status UploadFiles(v1::AgentService::StubInterface* agents, const v1::UploadCheckpointHeader& header,
                         const v1::Checkpoint& checkpoint, const std::string& folder, Cancellation* cancellation,
                         const std::function<void(int64_t)>& sent);

// Puts `checkpoint` into a folder of its id below `parent` and returns that folder, verified. What is there already and
// is the same (by the manifest's digest) is used as it is. A transfer that breaks off goes on where it was, for as long
// as the coordinator is away. NotFound, DataLoss, Cancelled.
absl::StatusOr<std::string> FetchCheckpoint(v1::CheckpointService::StubInterface* checkpoints,
                                            const v1::Checkpoint& checkpoint, const std::string& parent,
                                            Cancellation* cancellation, const std::function<void(int64_t)>& received);

// The same for a folder shared with the coordinator: nothing is copied.
absl::StatusOr<std::string> FindSharedCheckpoint(const v1::Checkpoint& checkpoint, const std::string& parent);

}  // namespace sab::agent
