#include "worker/trainer/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/checkpoint/checkpoint.h"
#include "common/spec/update.h"
#include "common/spec/validate.h"
#include "model/train/train_loop.h"
#include "worker/trainer/action.h"
#include "worker/trainer/checkpointing.h"
#include "worker/trainer/preparation.h"
#include "worker/trainer/progress.h"
#include "worker/trainer/save_points.h"
#include "worker/trainer/spec_translation.h"

namespace sab::trainer {
namespace {

// How long ranks wait for each other. One may come late with good reason: it finishes a long step of the attempt
// before. Those that never come are found by their agents and the coordinator.
constexpr absl::Duration kMeetingTimeout = absl::Minutes(30);
// Of one call: the slowest rank may take so much longer than the others.
constexpr std::chrono::minutes kCallTimeout(30);
constexpr std::chrono::seconds kConnectTry(1);

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

// What an update's results depend on beside its parameters and rows.
std::string SaveContext(const std::string& job, const v1::JobSpec& spec) {
  return Sha256(absl::StrCat(SAB_VERSION, "\n", job, "\n", spec.model().SerializeAsString(), "\n",
                             spec.task().SerializeAsString()));
}

// Null: the job wants none. Beside the job's checkpoints: where workers have that folder in common, a rank finds its
// save points on any of them.
std::unique_ptr<FileSavePoints> MakeSavePoints(const v1::GetAssignmentResponse& assignment) {
  const v1::JobSpec& spec = assignment.assignment().spec();
  const absl::StatusOr<absl::Duration> interval = spec::ParseSaveInterval(spec.checkpoint().within_update());
  OrThrow(interval.status());
  if (*interval <= absl::ZeroDuration()) return nullptr;
  const std::filesystem::path checkpoints = assignment.checkpoint_dir();
  auto points = std::make_unique<FileSavePoints>(
      FileSavePoints::Options{.folder = checkpoints.parent_path() / "save_points", .interval = *interval});
  points->SetContext(SaveContext(assignment.assignment().id().job(), spec));
  return points;
}

// What steps with `spec` are trained with in this attempt.
model::TrainConfig ConfigOf(const v1::JobSpec& spec, const v1::TrainerAssignment& mine) {
  model::TrainConfig config = ToTrainConfig(spec);
  config.rung = mine.rung();
  return config;
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
  v1::JobSpec spec;  // the settings of task, engine and loop
  int64_t rung = 0;
  at::Device device = at::kCPU;
  std::optional<Restored> restored;  // until the loop has taken it
  std::unique_ptr<model::Task> task;
  std::unique_ptr<model::ParameterSet> parameters;
  std::unique_ptr<FileSavePoints> save_points;  // null: none
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
  parts->spec = mine.spec();
  parts->rung = mine.rung();
  parts->device = device;
  parts->restored = Restore(assignment);
  parts->task = OpenTask(mine.spec(), parts->restored ? parts->restored->vocabulary : "");
  const model::ModelConfig config = ToModelConfig(mine.spec());
  parts->parameters = std::make_unique<model::ParameterSet>(config, parts->task->shape(), device);
  if (parts->restored) OrThrow(RestoreParameters(*parts->restored, *parts->parameters));
  // The products of LibTorch that the reference consists of are cut differently for each number of threads.
  if (mine.spec().train().deterministic() && config.engine == model::EngineKind::kReference) at::set_num_threads(1);
  parts->engine = model::MakeEngine(config, parts->task->shape(), *parts->parameters);
  parts->save_points = MakeSavePoints(assignment);
  if (mine.id().rank() == 0) RemoveUnfinishedCheckpoints(assignment.checkpoint_dir());
  parts_ = std::move(parts);
}

std::string Replica::Run(const v1::GetAssignmentResponse& assignment, const Connections& with) {
  const v1::TrainerAssignment& mine = assignment.assignment();
  const int rank = mine.id().rank();
  if (!spec::IsTraining(mine.spec())) {
    parts_.reset();
    pulse_.SetHoldsState(false);
    return RunAction(assignment, with, pulse_);
  }
  const bool held = mine.from_memory() && parts_ != nullptr && parts_->loop != nullptr && parts_->loop->holds_state() &&
                    parts_->job == mine.id().job();
  if (!held) Build(assignment);
  const c10::DeviceGuard guard(parts_->device);
  pulse_.Enter(v1::TRAINER_ACTIVITY_MEET);
  const std::unique_ptr<model::Collective> collective = Meet(assignment, parts_->device, with.agent, with.interruption);

  if (rank == 0 && parts_->checkpoints == nullptr) parts_->checkpoints = std::make_unique<CheckpointWorker>();
  const model::TrainConfig train = ConfigOf(parts_->spec, mine);
  // It may be told after this run has ended, when nobody here is to be stopped by the answer any more.
  const auto teller = std::make_shared<AgentClient>(with.stub, mine.id(), [](const std::string&) {});
  Progress progress({.rank = rank,
                     .from_memory = mine.from_memory(),
                     .batch_size = train.batch_size,
                     .skipped_before = parts_->restored ? parts_->restored->state.skipped_steps : 0,
                     .varying_length = !train.curriculum.lengths.empty(),
                     .checkpoint = {assignment.checkpoint_dir(), mine.id(), mine.spec(), mine.world_size(),
                                    parts_->task->vocabulary(), parts_->task->shape()},
                     .publish = [teller](const v1::Checkpoint& written) { return teller->PublishCheckpoint(written); }},
                    with.reporter, pulse_, rank == 0 ? parts_->checkpoints.get() : nullptr);
  if (held) {
    parts_->loop->Rejoin(*collective, progress);
  } else {
    parts_->loop = std::make_unique<model::TrainLoop>(
        train, model::TrainLoop::Parts{*parts_->task, *parts_->engine, *parts_->parameters, *collective, progress,
                                       parts_->save_points.get()});
    if (parts_->restored && !parts_->restored->parameters_only)
      parts_->loop->Restore(parts_->restored->state, parts_->restored->optimizer);
    if (mine.from_memory()) parts_->loop->TakeStateFromPeers();
    parts_->restored.reset();
  }
  progress.Attach(*parts_->parameters, *parts_->loop);
  if (rank == 0 && !mine.from_memory()) parts_->loop->ReserveForFreeze();

  const std::string reason = TrainPieces(mine, *collective, progress, with.interruption);
  progress.Flush();
  if (reason.empty()) return reason;
  if (rank == 0) OrThrow(parts_->checkpoints->Finish());
  // What rank 0 has not put on the disk yet is in its peers' memory, should it fail at that: none leaves before.
  pulse_.Enter(v1::TRAINER_ACTIVITY_COLLECTIVE);
  {
    const Interruption interruption(with.interruption, *parts_->loop, *collective);
    collective->Barrier();
  }
  if (rank == 0 && parts_->save_points) parts_->save_points->RemoveAll();
  return reason;
}

// Trains with the settings that each step is to be trained with: those of the assignment, but for steps before a change
// of them. All ranks take the same steps with the same settings, for they agree on where they go on from.
std::string Replica::TrainPieces(const v1::TrainerAssignment& mine, model::Collective& collective, Progress& progress,
                                 StopRequest& stop) {
  {
    const Interruption interruption(stop, *parts_->loop, collective);
    parts_->loop->Agree();
  }
  const int64_t agreed = parts_->loop->state().step;
  if (parts_->save_points) {
    parts_->save_points->Scan();
    if (mine.id().rank() == 0) parts_->save_points->RemoveUpTo(agreed);
  }
  spec::SpecChanges changes = mine.changes();
  spec::Settle(agreed, &changes);
  std::set<int64_t> ends = {model::TrainLoop::kNoEnd};
  for (const v1::SpecChange& change : changes) {
    if (change.after_step() >= agreed) ends.insert(change.after_step());
  }
  std::string reason;
  for (const int64_t end : ends) {
    Configure(spec::SpecOfStep(mine.spec(), changes, end), mine, collective, progress);
    const Interruption interruption(stop, *parts_->loop, collective);
    reason = parts_->loop->Train(end);
    if (reason != model::TrainLoop::kPieceDone) break;
  }
  return reason;
}

void Replica::Configure(const v1::JobSpec& spec, const v1::TrainerAssignment& mine, model::Collective& collective,
                        Progress& progress) {
  const auto same = [&](const auto& mine, const auto& other) {
    return mine.SerializeAsString() == other.SerializeAsString();
  };
  progress.SetSpec(spec);
  const bool same_task = same(parts_->spec.task(), spec.task()), same_model = same(parts_->spec.model(), spec.model());
  if (same_task && same_model && same(parts_->spec.train(), spec.train()) && same(parts_->spec.eval(), spec.eval()) &&
      parts_->spec.checkpoint().every() == spec.checkpoint().every() && parts_->rung == mine.rung())
    return;
  log::Info(absl::StrCat("other settings from step ", parts_->loop->state().step, " on"));
  std::unique_ptr<model::Task> task;
  std::unique_ptr<model::Engine> engine;
  if (!same_task) task = OpenTask(spec, parts_->task->vocabulary());
  if (!same_model) engine = model::MakeEngine(ToModelConfig(spec), parts_->task->shape(), *parts_->parameters);
  auto loop = std::make_unique<model::TrainLoop>(
      ConfigOf(spec, mine),
      model::TrainLoop::Parts{task ? *task : *parts_->task, engine ? *engine : *parts_->engine, *parts_->parameters,
                              collective, progress, parts_->save_points.get()},
      *parts_->loop);
  parts_->loop = std::move(loop);
  if (task) parts_->task = std::move(task);
  if (engine) parts_->engine = std::move(engine);
  parts_->spec = spec;
  if (parts_->save_points) parts_->save_points->SetContext(SaveContext(parts_->job, spec));
  parts_->rung = mine.rung();
  progress.Attach(*parts_->parameters, *parts_->loop);
  pulse_.ForgetSteps();
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
