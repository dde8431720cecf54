#include "client/cli/checkpoint_argument.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "common/base/status.h"

namespace sab::client {

absl::StatusOr<v1::Checkpoint> FindCheckpoint(Client& client, const std::string& text) {
  if (const auto name = ParseCheckpointName(text); name.ok()) return client.GetCheckpoint(*name);
  const size_t at = text.find('@');
  SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobArgument(text.substr(0, at)));
  int64_t step = -1;
  if (at != std::string::npos && (!absl::SimpleAtoi(text.substr(at + 1), &step) || step < 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\": after @ stands a step, for example ", id.name(), "@500"));
  }
  SAB_ASSIGN_OR_RETURN(const std::vector<v1::Checkpoint> checkpoints, client.ListCheckpoints(id));
  if (checkpoints.empty()) return absl::NotFoundError(absl::StrCat(id.name(), " has no checkpoint yet"));
  if (step < 0) return checkpoints.front();
  std::string steps;
  for (const v1::Checkpoint& checkpoint : checkpoints) {
    if (checkpoint.step() == step) return checkpoint;
    absl::StrAppend(&steps, steps.empty() ? "" : ", ", checkpoint.step());
  }
  return absl::NotFoundError(
      absl::StrCat(id.name(), " has no checkpoint of step ", step, "; there are those of steps ", steps));
}

}  // namespace sab::client
