#include "worker/trainer/preparation.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <stdexcept>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/checkpoint/safetensors.h"
#include "model/collective/collective.h"
#include "worker/trainer/spec_translation.h"

namespace sab::trainer {

void OrThrow(const absl::Status& status) {
  if (status.ok()) return;
  const std::string text(status.message());
  if (absl::IsInvalidArgument(status) || absl::IsNotFound(status) || absl::IsFailedPrecondition(status))
    throw std::invalid_argument(text);
  throw std::runtime_error(text);
}

at::Device PrepareDevice(const v1::GetAssignmentResponse& assignment) {
  at::globalContext().setFlushDenormal(true);
  if (assignment.device() == "cuda") {
    model::LoadCudaLibraries();
    return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(assignment.device_index()));
  }
  at::set_num_threads(std::max(1, assignment.threads()));
  return at::kCPU;
}

model::TensorData OpenTensors(const std::string& field, const std::string& path) {
  auto file = SafetensorsFile::Open(path);
  if (!file.ok())
    throw std::invalid_argument(absl::StrCat(field, " '", path, "': ", std::string(file.status().message())));
  const std::shared_ptr<SafetensorsFile> shared = std::move(*file);
  model::TensorData data;
  data.path = path;
  data.owner = shared;
  const std::pair<const char*, std::optional<model::ArrayView>*> wanted[] = {
      {"inputs", &data.inputs}, {"targets", &data.targets}, {"lengths", &data.lengths}};
  for (const auto& [name, view] : wanted) {
    const absl::StatusOr<TensorView> found = shared->Find(name);
    if (found.ok()) *view = model::ArrayView{found->dtype, found->shape, found->data.data()};
  }
  return data;
}

std::unique_ptr<model::Task> OpenTask(const v1::JobSpec& spec, const std::string& vocabulary) {
  model::TaskConfig config = ToTaskConfig(spec);
  config.vocabulary = vocabulary;
  if (config.kind == model::TaskKind::kTensor) {
    config.tensors = OpenTensors("task.path", config.path);
    if (!config.eval_path.empty()) config.eval_tensors = OpenTensors("eval.path", config.eval_path);
  }
  return model::MakeTask(config);
}

std::optional<Restored> Restore(const v1::GetAssignmentResponse& assignment) {
  if (assignment.resume_dir().empty()) return std::nullopt;
  absl::StatusOr<Restored> restored = ReadCheckpoint(assignment.resume_dir());
  // Damage is not std::invalid_argument: the next attempt may get another checkpoint.
  if (!restored.ok())
    throw std::runtime_error(
        absl::StrCat("cannot go on from the checkpoint: ", std::string(restored.status().message())));
  const v1::TrainerAssignment& mine = assignment.assignment();
  if (mine.has_resume_from() &&
      !absl::StartsWith(mine.resume_from().name(), absl::StrCat(mine.id().job(), "/checkpoints/")))
    BeginFrom(mine.spec(), *restored);
  log::Info(absl::StrCat("going on from step ", restored->state.step, ", ", assignment.resume_dir()));
  return *std::move(restored);
}

}  // namespace sab::trainer
