#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/scheduling/cluster.h"

namespace sab::server {

// Reads the queues' file (docs/SCHEDULING.md):
//   queues:
//     - {name: research, weight: 3, quota: {cpu: 8, cuda: 4}, max_priority: 60}
// Everything but the name has a default. InvalidArgument (InvalidFields) lists what is wrong, with lines.
absl::StatusOr<std::vector<QueueConfig>> ParseQueues(std::string_view text);

// The same from a file. InvalidArgument also when it cannot be read; the text names it.
absl::StatusOr<std::vector<QueueConfig>> ReadQueues(const std::string& path);

}  // namespace sab::server
