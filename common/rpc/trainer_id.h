#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "sab/v1/agent_service.pb.h"

namespace sab::rpc {

// "jobs/{job}/attempts/{attempt}/ranks/{rank}": what an agent puts into SAB_TRAINER_ID, and how texts name a trainer.
std::string FormatTrainerId(const v1::TrainerId& id);

// InvalidArgument shows the text and the form expected.
absl::StatusOr<v1::TrainerId> ParseTrainerId(std::string_view text);

}  // namespace sab::rpc
