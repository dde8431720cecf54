#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/api/client.h"

namespace sab::client {

// The checkpoint that a command line names: "jobs/{job}/checkpoints/{checkpoint}"; the newest of "jobs/{job}" or the
// bare id; that of a step by "{job}@{step}". InvalidArgument: none of these. NotFound: says which steps there are.
absl::StatusOr<v1::Checkpoint> FindCheckpoint(Client& client, const std::string& text);

// Says how `FindCheckpoint` reads the text, for --help.
inline constexpr char kCheckpointHelp[] =
    "A job's newest checkpoint (JOB), that of a step (JOB@STEP), or one by its name";

}  // namespace sab::client
