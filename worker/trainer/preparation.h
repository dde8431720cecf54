#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "model/tasks/task.h"
#include "sab/v1/trainer_service.pb.h"
#include "worker/trainer/checkpointing.h"

// What every action of a job begins with. All of it throws what a user is told, as Replica::Run says.
namespace sab::trainer {

// Takes a Status into the world of exceptions: a refusal or damage that stays is std::invalid_argument.
void OrThrow(const absl::Status& status);

// Sets up this process for the device that it was given.
at::Device PrepareDevice(const v1::GetAssignmentResponse& assignment);

// The arrays of a safetensors file, in the model's terms; they live as long as the result. `field` is for messages.
model::TensorData OpenTensors(const std::string& field, const std::string& path);

// The job's data. `vocabulary` is the checkpoint's; empty: taken from the files.
std::unique_ptr<model::Task> OpenTask(const v1::JobSpec& spec, const std::string& vocabulary);

// The checkpoint that the assignment starts from, if there is one; another job's as init_from says.
std::optional<Restored> Restore(const v1::GetAssignmentResponse& assignment);

}  // namespace sab::trainer
