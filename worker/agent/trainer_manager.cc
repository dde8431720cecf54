#include "worker/agent/trainer_manager.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "common/rpc/trainer_id.h"
#include "worker/agent/checkpoint_transfer.h"

extern char** environ;

namespace sab::agent {
namespace {

// After a trainer has said that it is done, its process gets this long to go.
constexpr absl::Duration kFarewell = absl::Seconds(15);

absl::Status Unwanted(const v1::TrainerId& id) {
  return WithReason(
      absl::AbortedError(absl::StrCat(rpc::FormatTrainerId(id), " is not wanted on this worker any more; exit")),
      "STALE_ATTEMPT");
}

double ResidentBytes(int pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/statm"));
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

// What a trainer that died while it wrote a checkpoint has left. Only rank 0 writes, and names carry the attempt.
void RemoveUnfinishedCheckpoints(const std::string& parent, const TrainerKey& key) {
  if (key.rank != 0) return;
  const std::string mark = absl::StrCat("-a", key.attempt, ".tmp-");
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(parent, error)) {
    const std::string name = entry.path().filename().string();
    if (name[0] == '.' && absl::StrContains(name, mark)) std::filesystem::remove_all(entry.path(), error);
  }
}

std::string OutcomeWord(v1::TrainerPhase phase) {
  return phase == v1::TRAINER_PHASE_SUCCEEDED ? "succeeded" : phase == v1::TRAINER_PHASE_STOPPED ? "stopped" : "failed";
}

}  // namespace

// Guarded by the manager's lock, but for what is marked.
struct TrainerManager::Trainer {
  TrainerKey key;
  v1::TrainerAssignment assignment;
  int64_t handle = 0;
  int pid = 0;
  v1::TrainerPhase phase = v1::TRAINER_PHASE_STARTING;  // what it said last
  int64_t step = 0;
  std::string rendezvous;
  std::string stop_reason;
  std::string failure;
  bool permanent = false;
  int64_t skipped_steps = 0;
  bool stop_wanted = false;

  bool ended = false;
  v1::TrainerPhase end_phase = v1::TRAINER_PHASE_UNSPECIFIED;
  absl::Duration end_visible_at;  // FAILED: at the latest
  int64_t end_sequence = 0;       // first call that carried the end
  bool end_answered = false;

  bool prepared = false;
  absl::Status preparation;
  std::string checkpoint_parent;
  bool upload = false;
  std::string resume_dir;

  std::ofstream log;             // the supervisor thread's own
  Cancellation cancellation;     // thread-safe
  std::unique_ptr<Relay> relay;  // thread-safe; set at the start. Absent: it never ran here
  std::thread preparing;

  ~Trainer() {
    cancellation.Cancel();
    if (preparing.joinable()) preparing.join();
  }
};

TrainerManager::TrainerManager(Options options, Collaborators collaborators, std::function<void()> changed)
    : options_(std::move(options)),
      with_(collaborators),
      changed_(std::move(changed)),
      supervisor_(this, options_.stop_grace) {}

TrainerManager::~TrainerManager() {
  StopAll("the worker's agent ends");
  std::map<TrainerKey, std::shared_ptr<Trainer>> trainers;
  std::vector<std::shared_ptr<Trainer>> draining;
  {
    MutexLock lock(&mutex_);
    trainers.swap(trainers_);
    draining.swap(draining_);
  }
  // Their threads may call back until they are joined: here, while everything else still lives.
  trainers.clear();
  draining.clear();
}

std::shared_ptr<TrainerManager::Trainer> TrainerManager::FindLocked(const TrainerKey& key) {
  const auto it = trainers_.find(key);
  return it == trainers_.end() ? nullptr : it->second;
}

absl::StatusOr<std::shared_ptr<TrainerManager::Trainer>> TrainerManager::WantedLocked(const v1::TrainerId& id) {
  std::shared_ptr<Trainer> trainer = FindLocked(TrainerKey::Of(id));
  if (trainer == nullptr || trainer->ended || trainer->stop_wanted || !stopping_all_.empty()) return Unwanted(id);
  return trainer;
}

std::shared_ptr<TrainerManager::Trainer> TrainerManager::OfHandle(int64_t handle) {
  MutexLock lock(&mutex_);
  const auto it = by_handle_.find(handle);
  return it == by_handle_.end() ? nullptr : it->second;
}

// --- Towards the coordinator.

v1::TrainerPhase TrainerManager::VisiblePhaseLocked(const Trainer& trainer, std::string* failure) {
  *failure = trainer.failure;
  const bool says_it_ended = trainer.phase == v1::TRAINER_PHASE_SUCCEEDED || trainer.phase == v1::TRAINER_PHASE_FAILED;
  const v1::TrainerPhase before = says_it_ended ? v1::TRAINER_PHASE_TRAINING : trainer.phase;
  if (!trainer.ended) return before;
  if (trainer.relay == nullptr || trainer.end_phase == v1::TRAINER_PHASE_STOPPED) return trainer.end_phase;
  const bool drained = trainer.relay->IsDrained();
  if (trainer.end_phase == v1::TRAINER_PHASE_FAILED) {
    const bool waited =
        with_.clock->Monotonic() >= trainer.end_visible_at || !stopping_all_.empty();  // no later call will tell
    return drained || waited ? v1::TRAINER_PHASE_FAILED : before;
  }
  if (!drained) return before;
  *failure = trainer.relay->CheckpointError();
  return failure->empty() ? v1::TRAINER_PHASE_SUCCEEDED : v1::TRAINER_PHASE_FAILED;
}

void TrainerManager::Describe(v1::SynchronizeRequest* request) {
  std::array<int, 7> by_phase{};
  MutexLock lock(&mutex_);
  for (const auto& [key, trainer] : trainers_) {
    v1::TrainerStatus* status = request->add_trainers();
    *status->mutable_id() = key.ToId();
    std::string failure;
    status->set_phase(VisiblePhaseLocked(*trainer, &failure));
    status->set_step(trainer->step);
    status->set_rendezvous(key.rank == 0 ? trainer->rendezvous : "");
    status->set_skipped_steps(trainer->skipped_steps);
    ++by_phase[static_cast<size_t>(status->phase())];
    const bool succeeded = status->phase() == v1::TRAINER_PHASE_SUCCEEDED;
    const bool failed = status->phase() == v1::TRAINER_PHASE_FAILED;
    if (succeeded) status->set_stop_reason(trainer->stop_reason);
    if (failed) status->set_failure(failure);
    if (failed) status->set_permanent(trainer->permanent);
    const bool end_told = succeeded || failed || status->phase() == v1::TRAINER_PHASE_STOPPED;
    if (end_told && trainer->end_sequence == 0) trainer->end_sequence = request->sequence();
    if (!trainer->ended && trainer->pid > 0)
      with_.metrics->SetSlotMemory(trainer->assignment.slot(), ResidentBytes(trainer->pid));
  }
  with_.metrics->SetTrainers(by_phase);
}

absl::Duration TrainerManager::TimeToChange() {
  MutexLock lock(&mutex_);
  absl::Duration least = absl::InfiniteDuration();
  for (const auto& [key, trainer] : trainers_) {
    if (trainer->ended && trainer->end_phase == v1::TRAINER_PHASE_FAILED && trainer->end_sequence == 0) {
      least = std::min(least, std::max(absl::ZeroDuration(), trainer->end_visible_at - with_.clock->Monotonic()));
    }
  }
  return least;
}

void TrainerManager::Apply(const v1::SynchronizeResponse& response, int64_t sequence) {
  std::vector<std::shared_ptr<Trainer>> forgotten;
  Answers answers;
  {
    MutexLock lock(&mutex_);
    desired_.assign(response.desired().begin(), response.desired().end());
    shared_dir_ = response.checkpoint_dir();
    for (auto& [key, trainer] : trainers_) {
      if (trainer->end_sequence > 0 && trainer->end_sequence <= sequence) trainer->end_answered = true;
    }
    ReconcileLocked(&forgotten);
    for (const v1::TrainerAssignment& assignment : desired_) {
      const std::shared_ptr<Trainer> trainer = FindLocked(TrainerKey::Of(assignment.id()));
      if (trainer == nullptr || trainer->ended) continue;
      trainer->assignment.set_leave(assignment.leave());
      if (assignment.rendezvous().empty() || assignment.id().rank() == 0) continue;
      trainer->rendezvous = assignment.rendezvous();
      AnswerWaitsLocked(trainer.get(), &answers);
    }
  }
  for (const auto& answer : answers) answer();
  ReleaseDrained();
}

void TrainerManager::ReleaseDrained() {
  std::vector<std::shared_ptr<Trainer>> drained;
  MutexLock lock(&mutex_);
  const auto end = std::stable_partition(draining_.begin(), draining_.end(),
                                         [](const auto& trainer) { return !trainer->relay->IsDrained(); });
  drained.assign(end, draining_.end());
  draining_.erase(end, draining_.end());
  // More than this many only while the coordinator is away: the oldest lines are given up.
  constexpr size_t kMostDraining = 64;
  while (draining_.size() > kMostDraining) {
    drained.push_back(draining_.front());
    draining_.erase(draining_.begin());
  }
}

void TrainerManager::ReconcileLocked(std::vector<std::shared_ptr<Trainer>>* forgotten) {
  std::vector<ActualTrainer> actual;
  for (const auto& [key, trainer] : trainers_) {
    const auto state = trainer->ended         ? ActualTrainer::State::kEnded
                       : trainer->stop_wanted ? ActualTrainer::State::kStopping
                                              : ActualTrainer::State::kRunning;
    actual.push_back({key, trainer->assignment.slot(), state, trainer->end_answered});
  }
  const std::vector<v1::TrainerAssignment> none;
  const Actions actions =
      Reconcile(stopping_all_.empty() ? desired_ : none, actual, static_cast<int32_t>(options_.slots.size()));
  for (const TrainerKey& key : actions.stop) {
    const std::shared_ptr<Trainer> trainer = FindLocked(key);
    log::Info(absl::StrCat("stopping ", rpc::FormatTrainerId(key.ToId())));
    trainer->stop_wanted = true;
    supervisor_.Stop(trainer->handle);
  }
  for (const TrainerKey& key : actions.forget) {
    std::shared_ptr<Trainer> trainer = FindLocked(key);
    const bool drained = trainer->relay == nullptr || trainer->relay->IsDrained();
    (drained ? *forgotten : draining_).push_back(std::move(trainer));
    trainers_.erase(key);
  }
  for (const v1::TrainerAssignment& assignment : actions.refuse) {
    AddEndedLocked(TrainerKey::Of(assignment.id()),
                   absl::StrCat("slot ", assignment.slot(), " does not exist on this worker"));
  }
  for (const v1::TrainerAssignment& assignment : actions.start) StartLocked(assignment);
}

void TrainerManager::AddEndedLocked(const TrainerKey& key, const std::string& failure) {
  auto trainer = std::make_shared<Trainer>();
  trainer->key = key;
  trainer->assignment.set_slot(-1);
  trainer->failure = failure;
  trainer->ended = true;
  trainer->end_phase = v1::TRAINER_PHASE_FAILED;
  trainers_[key] = std::move(trainer);
}

void TrainerManager::AddLeftover(const TrainerKey& key) {
  MutexLock lock(&mutex_);
  AddEndedLocked(key, "the worker's agent was restarted, which ends its trainers");
}

void TrainerManager::StartLocked(const v1::TrainerAssignment& assignment) {
  auto trainer = std::make_shared<Trainer>();
  trainer->key = TrainerKey::Of(assignment.id());
  trainer->assignment = assignment;
  trainer->rendezvous = assignment.rendezvous();
  trainer->upload = shared_dir_.empty();
  trainer->checkpoint_parent =
      CheckpointParent(trainer->upload ? with_.state->path() + "/checkpoints" : shared_dir_, trainer->key.job);
  trainer->log.open(with_.state->LogPath(trainer->key), std::ios::app);
  Relay::Options relay{.worker = options_.worker,
                       .key = trainer->key,
                       .checkpoint_parent = trainer->checkpoint_parent,
                       .upload = trainer->upload};
  trainer->relay = std::make_unique<Relay>(std::move(relay), with_.agents, with_.metrics, changed_);
  trainer->handle = supervisor_.Start(SpecOf(*trainer));
  trainers_[trainer->key] = trainer;
  by_handle_[trainer->handle] = trainer;
  if (assignment.has_resume_from()) {
    // A plain pointer: the trainer joins this thread before it goes, and must not be let go by it.
    trainer->preparing = std::thread([this, raw = trainer.get()] { Prepare(raw); });
  } else {
    trainer->prepared = true;
  }
  log::Info(absl::StrCat("starting ", rpc::FormatTrainerId(assignment.id()), " of ", assignment.world_size(),
                         " on slot ", assignment.slot()));
}

ProcessSpec TrainerManager::SpecOf(const Trainer& trainer) const {
  const v1::Slot& slot = options_.slots[static_cast<size_t>(trainer.assignment.slot())];
  std::vector<std::string> added = {
      absl::StrCat("SAB_AGENT_SOCKET=", options_.socket),
      absl::StrCat("SAB_TRAINER_ID=", rpc::FormatTrainerId(trainer.assignment.id())),
      absl::StrCat("OMP_NUM_THREADS=", slot.threads()),
      "CUDA_DEVICE_ORDER=PCI_BUS_ID",  // the order of NVML, by which slots are numbered
  };
  if (slot.device() == "cpu") added.push_back("CUDA_VISIBLE_DEVICES=");
  ProcessSpec spec{.arguments = {options_.trainer_path}, .environment = {}};
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string key = text.substr(0, text.find('=') + 1);
    const bool replaced =
        std::any_of(added.begin(), added.end(), [&](const std::string& other) { return absl::StartsWith(other, key); });
    if (!replaced) spec.environment.push_back(text);
  }
  spec.environment.insert(spec.environment.end(), added.begin(), added.end());
  return spec;
}

void TrainerManager::Prepare(Trainer* trainer) {
  const v1::Checkpoint& checkpoint = trainer->assignment.resume_from();
  const auto count = [this](int64_t bytes) { with_.metrics->downloaded_bytes.Increment(static_cast<double>(bytes)); };
  const absl::StatusOr<std::string> folder =
      trainer->upload
          ? FetchCheckpoint(with_.checkpoints, checkpoint, trainer->checkpoint_parent, &trainer->cancellation, count)
          : FindSharedCheckpoint(checkpoint, trainer->checkpoint_parent);
  if (!folder.ok())
    log::Error(absl::StrCat(rpc::FormatTrainerId(trainer->key.ToId()), ": ", folder.status().ToString()));
  Answers answers;
  {
    MutexLock lock(&mutex_);
    trainer->prepared = true;
    trainer->preparation = folder.status();
    if (folder.ok()) trainer->resume_dir = *folder;
    AnswerWaitsLocked(trainer, &answers);
  }
  for (const auto& answer : answers) answer();
}

void TrainerManager::StopAll(const std::string& why) {
  MutexLock lock(&mutex_);
  stopping_all_ = why;
  for (auto& [key, trainer] : trainers_) {
    trainer->cancellation.Cancel();
    if (!trainer->ended) supervisor_.Stop(trainer->handle);
  }
  const auto all_ended = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return std::all_of(trainers_.begin(), trainers_.end(), [](const auto& entry) { return entry.second->ended; });
  };
  while (!all_ended()) all_ended_.Wait(&mutex_);
}

// --- Processes.

void TrainerManager::OnStarted(int64_t handle, int pid) {
  const std::shared_ptr<Trainer> trainer = OfHandle(handle);
  if (trainer == nullptr) return;
  with_.state->RecordTrainer(trainer->key, pid);
  MutexLock lock(&mutex_);
  trainer->pid = pid;
}

void TrainerManager::OnLines(int64_t handle, const std::vector<std::string>& lines) {
  const std::shared_ptr<Trainer> trainer = OfHandle(handle);
  if (trainer == nullptr) return;
  for (const std::string& line : lines) trainer->log << line << '\n';
  trainer->log.flush();
  trainer->relay->AddLines(lines);
}

void TrainerManager::OnEnd(int64_t handle, const ProcessEnd& end) {
  const std::shared_ptr<Trainer> trainer = OfHandle(handle);
  if (trainer == nullptr) return;
  with_.state->ForgetTrainer(trainer->key);
  trainer->log.close();
  trainer->cancellation.Cancel();
  RemoveUnfinishedCheckpoints(trainer->checkpoint_parent, trainer->key);
  std::vector<std::shared_ptr<Trainer>> forgotten;
  Answers answers;
  trainer->relay->Finish();
  {
    MutexLock lock(&mutex_);
    trainer->ended = true;
    trainer->end_visible_at = with_.clock->Monotonic() + options_.failure_delay;
    if (trainer->phase == v1::TRAINER_PHASE_SUCCEEDED) {
      trainer->end_phase = v1::TRAINER_PHASE_SUCCEEDED;
    } else if (trainer->stop_wanted) {
      trainer->end_phase = v1::TRAINER_PHASE_STOPPED;
    } else {
      trainer->end_phase = v1::TRAINER_PHASE_FAILED;
      if (!stopping_all_.empty()) trainer->failure = stopping_all_;
      if (trainer->failure.empty()) trainer->failure = absl::StrCat("the trainer process ", end.Describe());
    }
    with_.metrics->CountExit(OutcomeWord(trainer->end_phase));
    with_.metrics->ClearSlot(trainer->assignment.slot());
    log::Info(absl::StrCat(rpc::FormatTrainerId(trainer->key.ToId()), " ", OutcomeWord(trainer->end_phase),
                           trainer->end_phase == v1::TRAINER_PHASE_FAILED ? ": " + trainer->failure : ""));
    by_handle_.erase(handle);
    AnswerWaitsLocked(trainer.get(), &answers);
    ReconcileLocked(&forgotten);  // its slot is free
    all_ended_.NotifyAll();
  }
  for (const auto& answer : answers) answer();
  changed_();
}

// --- Towards trainers.

v1::GetAssignmentResponse TrainerManager::AssignmentLocked(const Trainer& trainer) {
  const v1::Slot& slot = options_.slots[static_cast<size_t>(trainer.assignment.slot())];
  v1::GetAssignmentResponse response;
  *response.mutable_assignment() = trainer.assignment;
  response.set_device(slot.device());
  response.set_device_index(slot.device_index());
  response.set_threads(slot.threads());
  response.set_checkpoint_dir(trainer.checkpoint_parent);
  response.set_resume_dir(trainer.resume_dir);
  response.set_host(trainer.assignment.worker_count() <= 1 ? "127.0.0.1" : options_.host);
  return response;
}

void TrainerManager::AnswerWaitsLocked(Trainer* trainer, Answers* answers) {
  for (auto it = waits_.begin(); it != waits_.end();) {
    Wait& wait = it->second;
    const bool unwanted = trainer->ended || trainer->stop_wanted;
    const bool ready = wait.assignment != nullptr ? trainer->prepared : !trainer->rendezvous.empty();
    if (wait.trainer.get() != trainer || (!unwanted && !ready)) {
      ++it;
      continue;
    }
    if (wait.assignment != nullptr) {
      absl::StatusOr<v1::GetAssignmentResponse> result =
          unwanted                     ? Unwanted(trainer->key.ToId())
          : !trainer->preparation.ok() ? trainer->preparation
                                       : absl::StatusOr<v1::GetAssignmentResponse>(AssignmentLocked(*trainer));
      answers->push_back([answer = std::move(wait.assignment), result = std::move(result)] { answer(result); });
    } else {
      absl::StatusOr<std::string> result = trainer->rendezvous;
      if (unwanted) result = Unwanted(trainer->key.ToId());
      answers->push_back([answer = std::move(wait.rendezvous), result = std::move(result)] { answer(result); });
    }
    it = waits_.erase(it);
  }
}

int64_t TrainerManager::GetAssignment(const v1::TrainerId& id, AssignmentAnswer answer) {
  Answers answers;
  int64_t token = 0;
  {
    MutexLock lock(&mutex_);
    const auto trainer = WantedLocked(id);
    if (!trainer.ok()) {
      answers.push_back([answer, status = trainer.status()] { answer(status); });
    } else {
      token = next_token_++;
      waits_[token] = {*trainer, answer, nullptr};
      AnswerWaitsLocked(trainer->get(), &answers);
      if (!waits_.contains(token)) token = 0;
    }
  }
  for (const auto& call : answers) call();
  return token;
}

int64_t TrainerManager::AwaitRendezvous(const v1::TrainerId& id, RendezvousAnswer answer) {
  Answers answers;
  int64_t token = 0;
  {
    MutexLock lock(&mutex_);
    const auto trainer = WantedLocked(id);
    if (!trainer.ok()) {
      answers.push_back([answer, status = trainer.status()] { answer(status); });
    } else {
      token = next_token_++;
      waits_[token] = {*trainer, nullptr, answer};
      AnswerWaitsLocked(trainer->get(), &answers);
      if (!waits_.contains(token)) token = 0;
    }
  }
  for (const auto& call : answers) call();
  return token;
}

void TrainerManager::CancelWait(int64_t token) {
  Wait wait;
  {
    MutexLock lock(&mutex_);
    const auto it = waits_.find(token);
    if (it == waits_.end()) return;
    wait = std::move(it->second);
    waits_.erase(it);
  }
  const absl::Status status = absl::CancelledError("the caller has gone");
  wait.assignment != nullptr ? wait.assignment(status) : wait.rendezvous(status);
}

void TrainerManager::SetRendezvousLocked(const TrainerKey& of_rank0, const std::string& rendezvous, Answers* answers) {
  for (const auto& [key, trainer] : trainers_) {
    if (key.job != of_rank0.job || key.attempt != of_rank0.attempt || trainer->ended) continue;
    trainer->rendezvous = rendezvous;
    AnswerWaitsLocked(trainer.get(), answers);
  }
}

absl::Status TrainerManager::PublishRendezvous(const v1::TrainerId& id, const std::string& rendezvous) {
  Answers answers;
  {
    MutexLock lock(&mutex_);
    SAB_ASSIGN_OR_RETURN(const auto trainer, WantedLocked(id));
    if (id.rank() != 0) return absl::InvalidArgumentError("rendezvous: only rank 0 publishes one");
    // Ranks on this worker need not wait for the coordinator's answer.
    SetRendezvousLocked(trainer->key, rendezvous, &answers);
  }
  for (const auto& answer : answers) answer();
  changed_();
  return absl::OkStatus();
}

absl::StatusOr<bool> TrainerManager::ReportProgress(const v1::ReportProgressRequest& request) {
  bool news = false, leave = false;
  {
    MutexLock lock(&mutex_);
    SAB_ASSIGN_OR_RETURN(const auto trainer, WantedLocked(request.id()));
    news = request.phase() != trainer->phase;
    leave = trainer->assignment.leave();
    trainer->phase = request.phase();
    trainer->step = std::max(trainer->step, request.step());
    trainer->skipped_steps = request.skipped_steps();
    const int slot = trainer->assignment.slot();
    with_.metrics->SetSlotStep(slot, trainer->step);
    for (const v1::MetricPoint& point : request.points()) {
      if (point.split() == "train" && point.name() == "loss" && std::isfinite(point.value()))
        with_.metrics->SetSlotLoss(slot, point.value());
    }
    trainer->relay->AddPoints(request.points(), request.step());
    if (request.phase() == v1::TRAINER_PHASE_SUCCEEDED) trainer->stop_reason = request.stop_reason();
    if (request.phase() == v1::TRAINER_PHASE_FAILED) {
      trainer->failure = request.failure();
      trainer->permanent = request.permanent();
    }
    const bool ends = request.phase() == v1::TRAINER_PHASE_SUCCEEDED || request.phase() == v1::TRAINER_PHASE_FAILED;
    if (ends) supervisor_.ExpectEnd(trainer->handle, kFarewell);
  }
  if (news) changed_();
  return leave;
}

absl::Status TrainerManager::PublishCheckpoint(const v1::PublishCheckpointRequest& request) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(const auto trainer, WantedLocked(request.id()));
  if (!absl::StartsWith(request.checkpoint().name(), trainer->key.job + "/checkpoints/")) {
    return absl::InvalidArgumentError(absl::StrCat("checkpoint.name: must belong to ", trainer->key.job, ", got \"",
                                                   request.checkpoint().name(), "\""));
  }
  trainer->relay->AddCheckpoint(request.checkpoint());
  return absl::OkStatus();
}

}  // namespace sab::agent
