#pragma once

#include <optional>

#include "model/config.h"
#include "sab/v1/spec.pb.h"

namespace sab::spec {

// The engine's settings for a job, in the engine's own types. An absent field has the default that spec.proto states.
// `spec` is valid. model/config.h and model/fast/footprint.h are the only headers of `model/` that `common/` includes:
// plain types and arithmetic without torch, so the coordinator predicts what the trainer then does from one source.
model::ModelConfig ToModelConfig(const v1::JobSpec& spec);

// What a task that makes its own data gives the network; nothing for tasks whose files say it.
std::optional<model::TaskShape> ShapeOf(const v1::TaskSpec& task);

}  // namespace sab::spec
