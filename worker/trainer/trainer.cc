#include "worker/trainer/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>

#include <memory>
#include <optional>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/checkpoint/safetensors.h"
#include "model/train/train_loop.h"
#include "worker/trainer/checkpointing.h"
#include "worker/trainer/progress.h"
#include "worker/trainer/spec_translation.h"

namespace sab::trainer {
namespace {

// How long ranks wait for rank 0: its worker may have to be told, and to start it.
constexpr absl::Duration kMeetingTimeout = absl::Minutes(5);

// Takes a Status into the world of exceptions: a refusal or damage that stays is std::invalid_argument.
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

// Meets the other ranks.
std::unique_ptr<model::Collective> Meet(const v1::GetAssignmentResponse& assignment, at::Device device,
                                        AgentClient& agent) {
  const v1::TrainerAssignment& mine = assignment.assignment();
  if (mine.world_size() <= 1) return model::MakeSingleProcessCollective();
  const bool one_machine = mine.worker_count() <= 1;
  std::shared_ptr<model::Rendezvous> rendezvous;
  if (mine.id().rank() == 0) {
    rendezvous = model::Rendezvous::Open(one_machine ? "127.0.0.1" : assignment.host());
    OrThrow(agent.PublishRendezvous(rendezvous->address()));
  } else {
    std::string address = mine.rendezvous();
    if (address.empty()) {
      const absl::StatusOr<std::string> awaited = agent.AwaitRendezvous(kMeetingTimeout);
      OrThrow(awaited.status());
      address = *awaited;
    }
    rendezvous = model::Rendezvous::Connect(address, std::chrono::seconds(60));
  }
  return model::MakeCollective(rendezvous, {.rank = mine.id().rank(),
                                            .world_size = mine.world_size(),
                                            .device = device,
                                            .local_host = one_machine ? "127.0.0.1" : assignment.host()});
}

// Opens the arrays of a tensor task, in the model's terms.
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
  log::Info(absl::StrCat("going on from step ", restored->state.step, ", ", assignment.resume_dir()));
  return *std::move(restored);
}

// Lets a stop request interrupt the training for as long as it lives.
class Interruption {
 public:
  Interruption(StopRequest& stop, model::TrainLoop& loop, model::Collective& collective) : stop_(stop) {
    stop_.SetAction([&loop, &collective] {
      loop.RequestStop();
      collective.Abort();
    });
    stop_.SetLeaveAction([&loop] { loop.RequestLeave(); });
  }
  ~Interruption() {
    stop_.SetAction(nullptr);
    stop_.SetLeaveAction(nullptr);
  }

 private:
  StopRequest& stop_;
};

}  // namespace

std::string RunTrainer(const v1::GetAssignmentResponse& assignment, AgentClient& agent, Reporter& reporter,
                       StopRequest& stop) {
  const v1::TrainerAssignment& mine = assignment.assignment();
  const v1::JobSpec& spec = mine.spec();
  const int rank = mine.id().rank();
  const at::Device device = PrepareDevice(assignment);
  const c10::DeviceGuard guard(device);

  std::optional<Restored> restored = Restore(assignment);
  const std::unique_ptr<model::Task> task = OpenTask(spec, restored ? restored->vocabulary : "");
  const model::ModelConfig config = ToModelConfig(spec);
  model::ParameterSet parameters(config, task->shape(), device);
  if (restored) OrThrow(RestoreParameters(*restored, parameters));
  const std::unique_ptr<model::Engine> engine = model::MakeEngine(config, task->shape(), parameters);
  const std::unique_ptr<model::Collective> collective = Meet(assignment, device, agent);

  std::unique_ptr<CheckpointWorker> checkpoints;
  if (rank == 0) {
    RemoveUnfinishedCheckpoints(assignment.checkpoint_dir());
    checkpoints = std::make_unique<CheckpointWorker>(
        CheckpointContext{assignment.checkpoint_dir(), mine.id(), spec, mine.world_size(), task->vocabulary()}, agent);
  }
  const model::TrainConfig train = ToTrainConfig(spec);
  Progress progress(
      {.rank = rank, .batch_size = train.batch_size, .skipped_before = restored ? restored->state.skipped_steps : 0},
      reporter, checkpoints.get());
  model::TrainLoop loop(train, {*task, *engine, parameters, *collective, progress});
  if (restored) loop.Restore(restored->state, restored->optimizer);
  restored.reset();
  progress.Attach(parameters, loop);

  const Interruption interruption(stop, loop, *collective);
  const std::string reason = loop.Run();
  progress.Flush();
  if (checkpoints != nullptr && !reason.empty()) OrThrow(checkpoints->Finish());
  return reason;
}

}  // namespace sab::trainer
