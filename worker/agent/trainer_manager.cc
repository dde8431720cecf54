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
#include "worker/agent/trainer.h"

extern char** environ;

namespace sab::agent {
namespace {

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

TrainerManager::TrainerManager(Options options, Collaborators collaborators, std::function<void()> changed)
    : options_(std::move(options)),
      with_(collaborators),
      changed_(std::move(changed)),
      standbys_(options_.standby),
      supervisor_(this, options_.stop_grace),
      watching_([this] { Watch(); }) {}

TrainerManager::~TrainerManager() {
  StopAll("the worker's agent ends");
  {
    MutexLock lock(&mutex_);
    closing_ = true;
    watched_changed_.NotifyAll();
  }
  watching_.join();
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
    if (failed) status->set_hung(trainer->hung);
    if (failed && trainer->relay != nullptr)
      status->set_fault_age_seconds(absl::ToDoubleSeconds(with_.clock->Monotonic() - trainer->fault_at));
    *status->mutable_pulse() = trainer->pulse;
    status->mutable_pulse()->set_activity_seconds(trainer->pulse.activity_seconds() +
                                                  absl::ToDoubleSeconds(trainer->watchdog.silence()));
    if (trainer->restored.has_value()) *status->mutable_restored() = *trainer->restored;
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
    lease_ = absl::Seconds(response.lease().seconds()) + absl::Nanoseconds(response.lease().nanos());
    for (auto& [key, trainer] : trainers_) {
      if (trainer->end_sequence > 0 && trainer->end_sequence <= sequence) trainer->end_answered = true;
    }
    ReconcileLocked(&forgotten, &answers);
    FillStandbysLocked();
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

void TrainerManager::ReconcileLocked(std::vector<std::shared_ptr<Trainer>>* forgotten, Answers* answers) {
  std::vector<ActualTrainer> actual;
  for (const auto& [key, trainer] : trainers_) {
    const auto state = trainer->ended         ? ActualTrainer::State::kEnded
                       : trainer->stop_wanted ? ActualTrainer::State::kStopping
                                              : ActualTrainer::State::kRunning;
    actual.push_back({.key = key,
                      .slot = trainer->assignment.slot(),
                      .state = state,
                      .end_answered = trainer->end_answered,
                      .can_go_on = trainer->release_awaited && !trainer->hung});
  }
  const std::vector<v1::TrainerAssignment> none;
  const Actions actions =
      Reconcile(stopping_all_.empty() ? desired_ : none, actual, static_cast<int32_t>(options_.slots.size()));
  for (const auto& [key, assignment] : actions.hand_over) HandOverLocked(FindLocked(key), assignment, answers);
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
  for (const v1::TrainerAssignment& assignment : actions.start) StartLocked(assignment, answers);
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

std::shared_ptr<TrainerManager::Trainer> TrainerManager::MakeTrainerLocked(const v1::TrainerAssignment& assignment) {
  auto trainer = std::make_shared<Trainer>();
  trainer->key = TrainerKey::Of(assignment.id());
  trainer->assignment = assignment;
  trainer->rendezvous = assignment.rendezvous();
  trainer->upload = shared_dir_.empty();
  trainer->checkpoint_dir = trainer->upload ? with_.state->path() + "/checkpoints" : shared_dir_;
  trainer->checkpoint_parent = CheckpointParent(trainer->checkpoint_dir, trainer->key.job);
  trainer->log.open(with_.state->LogPath(trainer->key), std::ios::app);
  Relay::Options relay{.worker = options_.worker,
                       .key = trainer->key,
                       .checkpoint_parent = trainer->checkpoint_parent,
                       .upload = trainer->upload};
  trainer->relay = std::make_unique<Relay>(std::move(relay), with_.agents, with_.metrics, changed_);
  trainers_[trainer->key] = trainer;
  watched_changed_.NotifyAll();
  if (assignment.has_resume_from()) {
    // A plain pointer: the trainer joins this thread before it goes, and must not be let go by it.
    trainer->preparing = std::thread([this, raw = trainer.get()] { Prepare(raw); });
  } else {
    trainer->prepared = true;
  }
  return trainer;
}

void TrainerManager::StartLocked(const v1::TrainerAssignment& assignment, Answers* answers) {
  const std::shared_ptr<Trainer> trainer = MakeTrainerLocked(assignment);
  const std::optional<StandbyPool::Taken> standby = standbys_.Take(assignment.id());
  if (standby.has_value()) {
    trainer->handle = standby->handle;
    trainer->pid = standby->pid;
    AnswerStandbyLocked(standby->number, assignment.id(), answers);
    if (trainer->pid > 0) RecordLater(*trainer, answers);
  } else {
    trainer->handle = supervisor_.Start(SpecOf(options_.slots[static_cast<size_t>(assignment.slot())],
                                               absl::StrCat("SAB_TRAINER_ID=", rpc::FormatTrainerId(assignment.id()))));
  }
  by_handle_[trainer->handle] = trainer;
  log::Info(absl::StrCat("starting ", rpc::FormatTrainerId(assignment.id()), " of ", assignment.world_size(),
                         " on slot ", assignment.slot(), standby.has_value() ? " by a standby" : ""));
}

// Writes to disk: after the answers, without the lock.
void TrainerManager::RecordLater(const Trainer& trainer, Answers* answers) {
  answers->push_back([this, key = trainer.key, pid = trainer.pid] { with_.state->RecordTrainer(key, pid); });
}

// The process of `old` becomes the trainer of `assignment`. It is told by the answer to its AwaitRelease.
void TrainerManager::HandOverLocked(const std::shared_ptr<Trainer>& old, const v1::TrainerAssignment& assignment,
                                    Answers* answers) {
  const std::shared_ptr<Trainer> next = MakeTrainerLocked(assignment);
  next->handle = old->handle;
  next->pid = old->pid;
  by_handle_[next->handle] = next;
  // It may be in the middle of a long step, and is then as little hung as before.
  next->watchdog = old->watchdog;
  old->ended = true;
  old->end_phase = v1::TRAINER_PHASE_STOPPED;
  old->successor = assignment.id();
  old->cancellation.Cancel();
  // Figures of steps that stay: the coordinator would refuse them under the old attempt.
  next->relay->AddPoints(old->relay->TakePoints(), 0);
  old->relay->Finish();
  AnswerWaitsLocked(old.get(), answers);
  RecordLater(*next, answers);
  answers->push_back([this, key = old->key] { with_.state->ForgetTrainer(key); });
  log::Info(absl::StrCat(rpc::FormatTrainerId(old->key.ToId()), " goes on as ", rpc::FormatTrainerId(assignment.id())));
}

void TrainerManager::AnswerStandbyLocked(int64_t standby, const v1::TrainerId& id, Answers* answers) {
  for (auto it = waits_.begin(); it != waits_.end(); ++it) {
    if (it->second.standby != standby) continue;
    answers->push_back([answer = std::move(it->second.trainer_id), id] { answer(id); });
    waits_.erase(it);
    standbys_.Remove(standby);
    return;
  }
}

void TrainerManager::StartStandbys() {
  MutexLock lock(&mutex_);
  FillStandbysLocked();
}

// Not while a trainer starts: what it needs most then is the processor.
void TrainerManager::FillStandbysLocked() {
  const bool busy = std::any_of(trainers_.begin(), trainers_.end(), [](const auto& entry) {
    return !entry.second->ended &&
           (entry.second->phase == v1::TRAINER_PHASE_STARTING || entry.second->phase == v1::TRAINER_PHASE_PREPARING);
  });
  while (!busy && stopping_all_.empty() && standbys_.Wants()) {
    const int64_t number = standbys_.NextNumber();
    standbys_.Add(number, supervisor_.Start(SpecOf(options_.slots[0], absl::StrCat("SAB_TRAINER_STANDBY=", number))));
  }
}

// `identity`: the variable that tells the process who it is.
ProcessSpec TrainerManager::SpecOf(const v1::Slot& slot, const std::string& identity) const {
  std::vector<std::string> added = {
      absl::StrCat("SAB_AGENT_SOCKET=", options_.socket), identity, absl::StrCat("OMP_NUM_THREADS=", slot.threads()),
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
  // Perhaps another job's, that this one starts from: it lies among that one's.
  const std::string owner = checkpoint.name().substr(0, checkpoint.name().find("/checkpoints/"));
  const std::string parent = CheckpointParent(trainer->checkpoint_dir, owner);
  const absl::StatusOr<std::string> folder =
      trainer->upload ? FetchCheckpoint(with_.checkpoints, checkpoint, parent, &trainer->cancellation, count)
                      : FindSharedCheckpoint(checkpoint, parent);
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
  for (const int64_t handle : standbys_.Handles()) supervisor_.Stop(handle);
  const auto all_ended = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return std::all_of(trainers_.begin(), trainers_.end(), [](const auto& entry) { return entry.second->ended; }) &&
           standbys_.Handles().empty();
  };
  while (!all_ended()) all_ended_.Wait(&mutex_);
}

// --- Processes.

void TrainerManager::OnStarted(int64_t handle, int pid) {
  TrainerKey key;
  {
    MutexLock lock(&mutex_);
    const auto it = by_handle_.find(handle);
    if (it == by_handle_.end()) {
      standbys_.SetPid(handle, pid);
      return;
    }
    it->second->pid = pid;
    key = it->second->key;
  }
  with_.state->RecordTrainer(key, pid);
}

void TrainerManager::OnLines(int64_t handle, const std::vector<std::string>& lines) {
  const std::shared_ptr<Trainer> trainer = OfHandle(handle);
  if (trainer == nullptr) return;
  for (const std::string& line : lines) trainer->log << line << '\n';
  trainer->log.flush();
  trainer->relay->AddLines(lines);
}

void TrainerManager::OnStandbyEnd(int64_t handle, const ProcessEnd& end) {
  MutexLock lock(&mutex_);
  if (stopping_all_.empty()) log::Warning(absl::StrCat("a standby trainer ", end.Describe()));
  standbys_.Fail(handle);
  FillStandbysLocked();
  all_ended_.NotifyAll();
}

// Looks at every trainer's process from time to time, for as long as there are any.
void TrainerManager::Watch() {
  absl::Duration last = with_.clock->Monotonic();
  while (true) {
    std::vector<std::pair<std::shared_ptr<Trainer>, int>> watched;
    {
      MutexLock lock(&mutex_);
      if (trainers_.empty() && !closing_) watched_changed_.Wait(&mutex_);
      if (!closing_) watched_changed_.WaitFor(&mutex_, Watchdog::kInterval);
      if (closing_) return;
      for (const auto& [key, trainer] : trainers_) {
        if (!trainer->ended && trainer->pid > 0) watched.emplace_back(trainer, trainer->pid);
      }
    }
    const absl::Duration now = with_.clock->Monotonic();
    for (const auto& [trainer, pid] : watched) Look(*trainer, now - last, SampleProcess(pid));
    last = now;
  }
}

void TrainerManager::Look(Trainer& trainer, absl::Duration elapsed, const ProcessSample& sample) {
  MutexLock lock(&mutex_);
  const std::string verdict = trainer.watchdog.Look(elapsed, sample);
  const bool ending = trainer.phase == v1::TRAINER_PHASE_SUCCEEDED || trainer.phase == v1::TRAINER_PHASE_FAILED;
  if (verdict.empty() || trainer.ended || trainer.stop_wanted || trainer.hung || ending) return;
  trainer.hung = true;
  trainer.fault_at = with_.clock->Monotonic() - trainer.watchdog.silence();
  trainer.failure = absl::StrCat("hung: the trainer ", verdict);
  log::Warning(absl::StrCat(rpc::FormatTrainerId(trainer.key.ToId()), " ", trainer.failure, "; it is killed"));
  supervisor_.ExpectEnd(trainer.handle, absl::ZeroDuration());
}

void TrainerManager::OnEnd(int64_t handle, const ProcessEnd& end) {
  const std::shared_ptr<Trainer> trainer = OfHandle(handle);
  if (trainer == nullptr) return OnStandbyEnd(handle, end);
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
    if (!trainer->hung) trainer->fault_at = with_.clock->Monotonic();
    standbys_.RemoveHandle(handle);  // one that ended before it asked who it is
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
    ReconcileLocked(&forgotten, &answers);  // its slot is free
    all_ended_.NotifyAll();
  }
  for (const auto& answer : answers) answer();
  changed_();
}

}  // namespace sab::agent
