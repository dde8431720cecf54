#include "worker/trainer/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>

#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/checkpoint/safetensors.h"
#include "model/train/train_loop.h"
#include "worker/trainer/checkpointing.h"
#include "worker/trainer/progress.h"
#include "worker/trainer/spec_translation.h"

namespace sab::trainer {
namespace {

// How long ranks wait for each other. One may come late with good reason: it finishes a long step of the attempt
// before. Those that never come are found by their agents and the coordinator.
constexpr absl::Duration kMeetingTimeout = absl::Minutes(30);
// Of one call: the slowest rank may take so much longer than the others.
constexpr std::chrono::minutes kCallTimeout(30);
constexpr std::chrono::seconds kConnectTry(1);

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

// Connects to rank 0's store, which may die before it answers.
std::shared_ptr<model::Rendezvous> Connect(const std::string& address, const StopRequest& interruption) {
  const absl::Duration deadline = SystemClock().Monotonic() + absl::Seconds(60);
  while (true) {
    try {
      return model::Rendezvous::Connect(address, kConnectTry);
    } catch (const model::CollectiveError&) {
      if (interruption.requested() || SystemClock().Monotonic() > deadline) throw;
    }
  }
}

// Meets the other ranks.
std::unique_ptr<model::Collective> Meet(const v1::GetAssignmentResponse& assignment, at::Device device,
                                        AgentClient& agent, const StopRequest& interruption) {
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
    rendezvous = Connect(address, interruption);
  }
  auto collective = model::MakeCollective(rendezvous, {.rank = mine.id().rank(),
                                                       .world_size = mine.world_size(),
                                                       .device = device,
                                                       .local_host = one_machine ? "127.0.0.1" : assignment.host(),
                                                       .timeout = kCallTimeout,
                                                       .meeting_timeout = absl::ToChronoMilliseconds(kMeetingTimeout),
                                                       .interrupted = [&] { return interruption.requested(); }});
  log::Info(absl::StrCat("ranks exchange gradients over ", collective->transport()));
  return collective;
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

// Everything of one job in this process. Members go in the opposite order.
struct Replica::Parts {
  std::string job;
  std::string spec;  // serialised
  at::Device device = at::kCPU;
  std::optional<Restored> restored;  // until the loop has taken it
  std::unique_ptr<model::Task> task;
  std::unique_ptr<model::ParameterSet> parameters;
  std::unique_ptr<model::Engine> engine;
  std::unique_ptr<model::TrainLoop> loop;
  std::unique_ptr<CheckpointWorker> checkpoints;  // once this was rank 0
};

Replica::Replica(PulseMeter& pulse) : pulse_(pulse) {}
Replica::~Replica() = default;

void Replica::Build(const v1::GetAssignmentResponse& assignment) {
  const v1::TrainerAssignment& mine = assignment.assignment();
  const at::Device device = PrepareDevice(assignment);
  const c10::DeviceGuard guard(device);
  parts_.reset();
  pulse_.SetHoldsState(false);
  auto parts = std::make_unique<Parts>();
  parts->job = mine.id().job();
  parts->spec = mine.spec().SerializeAsString();
  parts->device = device;
  parts->restored = Restore(assignment);
  parts->task = OpenTask(mine.spec(), parts->restored ? parts->restored->vocabulary : "");
  const model::ModelConfig config = ToModelConfig(mine.spec());
  parts->parameters = std::make_unique<model::ParameterSet>(config, parts->task->shape(), device);
  if (parts->restored) OrThrow(RestoreParameters(*parts->restored, *parts->parameters));
  // The products of LibTorch that the reference consists of are cut differently for each number of threads.
  if (mine.spec().train().deterministic() && config.engine == model::EngineKind::kReference) at::set_num_threads(1);
  parts->engine = model::MakeEngine(config, parts->task->shape(), *parts->parameters);
  if (mine.id().rank() == 0) RemoveUnfinishedCheckpoints(assignment.checkpoint_dir());
  parts_ = std::move(parts);
}

std::string Replica::Run(const v1::GetAssignmentResponse& assignment, const Connections& with) {
  const v1::TrainerAssignment& mine = assignment.assignment();
  const int rank = mine.id().rank();
  pulse_.Enter(v1::TRAINER_ACTIVITY_PREPARE);
  const bool held = mine.from_memory() && parts_ != nullptr && parts_->loop != nullptr && parts_->loop->holds_state() &&
                    parts_->job == mine.id().job() && parts_->spec == mine.spec().SerializeAsString();
  if (!held) Build(assignment);
  const c10::DeviceGuard guard(parts_->device);
  pulse_.Enter(v1::TRAINER_ACTIVITY_MEET);
  const std::unique_ptr<model::Collective> collective = Meet(assignment, parts_->device, with.agent, with.interruption);

  if (rank == 0 && parts_->checkpoints == nullptr) parts_->checkpoints = std::make_unique<CheckpointWorker>();
  const model::TrainConfig train = ToTrainConfig(mine.spec());
  // It may be told after this run has ended, when nobody here is to be stopped by the answer any more.
  const auto teller = std::make_shared<AgentClient>(with.stub, mine.id(), [](const std::string&) {});
  Progress progress({.rank = rank,
                     .from_memory = mine.from_memory(),
                     .batch_size = train.batch_size,
                     .skipped_before = parts_->restored ? parts_->restored->state.skipped_steps : 0,
                     .varying_length = !train.curriculum.lengths.empty(),
                     .checkpoint = {assignment.checkpoint_dir(), mine.id(), mine.spec(), mine.world_size(),
                                    parts_->task->vocabulary()},
                     .publish = [teller](const v1::Checkpoint& written) { return teller->PublishCheckpoint(written); }},
                    with.reporter, pulse_, rank == 0 ? parts_->checkpoints.get() : nullptr);
  if (held) {
    parts_->loop->Rejoin(*collective, progress);
  } else {
    parts_->loop = std::make_unique<model::TrainLoop>(
        train, model::TrainLoop::Parts{*parts_->task, *parts_->engine, *parts_->parameters, *collective, progress});
    if (parts_->restored) parts_->loop->Restore(parts_->restored->state, parts_->restored->optimizer);
    if (mine.from_memory()) parts_->loop->TakeStateFromPeers();
    parts_->restored.reset();
  }
  progress.Attach(*parts_->parameters, *parts_->loop);
  if (rank == 0 && !mine.from_memory()) parts_->loop->ReserveForFreeze();

  const Interruption interruption(with.interruption, *parts_->loop, *collective);
  const std::string reason = parts_->loop->Run();
  progress.Flush();
  if (rank == 0 && !reason.empty()) OrThrow(parts_->checkpoints->Finish());
  return reason;
}

void Replica::WarmUp() {
  at::set_num_threads(1);
  model::TaskConfig task_config;
  task_config.kind = model::TaskKind::kCopy;
  task_config.batch_size = 2;
  task_config.length = 2;
  const std::unique_ptr<model::Task> task = model::MakeTask(task_config);
  model::ModelConfig config;
  config.hidden_size = 8;
  model::ParameterSet parameters(config, task->shape(), at::kCPU);
  const std::unique_ptr<model::Engine> engine = model::MakeEngine(config, task->shape(), parameters);
  const model::Batch batch = task->TrainingBatch(1, 2, {0, 2});
  engine->ForwardBackward(batch, 1.0);
  const auto store = model::Rendezvous::Open("127.0.0.1");
  const auto alone = model::MakeCollective(store, {.rank = 0, .world_size = 1});
  at::Tensor& gradients = parameters.gradients();
  alone->AllReduceSum(gradients);
}

}  // namespace sab::trainer
