#pragma once

#include "common/spec/model_config.h"
#include "model/tasks/task.h"
#include "model/train/train_config.h"
#include "sab/v1/spec.pb.h"

namespace sab::trainer {

// A job's spec in the model's own types. An absent field has the default that spec.proto states. `spec` is valid.
using spec::ToModelConfig;
// Without the tensors of task `tensor` and the vocabulary: those are read from files.
model::TaskConfig ToTaskConfig(const v1::JobSpec& spec);
// Throws std::invalid_argument: a condition that cannot be read.
model::TrainConfig ToTrainConfig(const v1::JobSpec& spec);

}  // namespace sab::trainer
