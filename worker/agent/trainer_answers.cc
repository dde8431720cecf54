// What trainers ask and tell: the half of TrainerManager that TrainerService calls.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/trainer_id.h"
#include "worker/agent/trainer.h"

namespace sab::agent {
namespace {

// After a trainer has said that it is done, its process gets this long to go.
constexpr absl::Duration kFarewell = absl::Seconds(15);

absl::Status Unwanted(const v1::TrainerId& id) {
  return WithReason(
      absl::AbortedError(absl::StrCat(rpc::FormatTrainerId(id), " is not wanted on this worker any more; exit")),
      "STALE_ATTEMPT");
}

}  // namespace

absl::StatusOr<std::shared_ptr<TrainerManager::Trainer>> TrainerManager::WantedLocked(const v1::TrainerId& id) {
  std::shared_ptr<Trainer> trainer = FindLocked(TrainerKey::Of(id));
  if (trainer == nullptr || trainer->ended || trainer->stop_wanted || !stopping_all_.empty()) return Unwanted(id);
  return trainer;
}

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
  // A worker that is gone is known to be so after a lease; then its peers are told.
  response.mutable_peer_patience()->set_seconds(absl::ToInt64Seconds(2 * lease_ + absl::Seconds(10)));
  return response;
}

void TrainerManager::AnswerWaitsLocked(Trainer* trainer, Answers* answers) {
  const bool unwanted = trainer->ended || trainer->stop_wanted;
  for (auto it = waits_.begin(); it != waits_.end();) {
    Wait& wait = it->second;
    const bool ready = wait.assignment != nullptr   ? trainer->prepared
                       : wait.rendezvous != nullptr ? !trainer->rendezvous.empty()
                                                    : trainer->successor.has_value();
    if (wait.trainer.get() != trainer || (!unwanted && !ready)) {
      ++it;
      continue;
    }
    const absl::Status refusal = unwanted ? Unwanted(trainer->key.ToId()) : absl::OkStatus();
    if (wait.assignment != nullptr) {
      absl::StatusOr<v1::GetAssignmentResponse> result =
          !refusal.ok()                ? refusal
          : !trainer->preparation.ok() ? trainer->preparation
                                       : absl::StatusOr<v1::GetAssignmentResponse>(AssignmentLocked(*trainer));
      answers->push_back([answer = std::move(wait.assignment), result = std::move(result)] { answer(result); });
    } else if (wait.rendezvous != nullptr) {
      absl::StatusOr<std::string> result = trainer->rendezvous;
      if (unwanted) result = refusal;
      answers->push_back([answer = std::move(wait.rendezvous), result = std::move(result)] { answer(result); });
    } else {
      absl::StatusOr<v1::TrainerId> result = refusal;
      if (trainer->successor.has_value()) result = *trainer->successor;
      answers->push_back([answer = std::move(wait.trainer_id), result = std::move(result)] { answer(result); });
      trainer->release_awaited = false;
    }
    it = waits_.erase(it);
  }
}

int64_t TrainerManager::AddWait(const v1::TrainerId& id, Wait wait) {
  Answers answers;
  int64_t token = 0;
  {
    MutexLock lock(&mutex_);
    const auto trainer = WantedLocked(id);
    if (!trainer.ok()) {
      answers.push_back([wait, status = trainer.status()] { wait.Refuse(status); });
    } else {
      token = next_token_++;
      wait.trainer = *trainer;
      if (wait.trainer_id != nullptr) wait.trainer->release_awaited = true;
      waits_[token] = std::move(wait);
      AnswerWaitsLocked(trainer->get(), &answers);
      if (!waits_.contains(token)) token = 0;
    }
  }
  for (const auto& call : answers) call();
  return token;
}

void TrainerManager::Wait::Refuse(const absl::Status& status) const {
  if (assignment != nullptr) assignment(status);
  if (rendezvous != nullptr) rendezvous(status);
  if (trainer_id != nullptr) trainer_id(status);
}

int64_t TrainerManager::GetAssignment(const v1::TrainerId& id, AssignmentAnswer answer) {
  return AddWait(id, {.assignment = std::move(answer)});
}

int64_t TrainerManager::AwaitRendezvous(const v1::TrainerId& id, RendezvousAnswer answer) {
  return AddWait(id, {.rendezvous = std::move(answer)});
}

int64_t TrainerManager::AwaitRelease(const v1::TrainerId& id, TrainerAnswer answer) {
  return AddWait(id, {.trainer_id = std::move(answer)});
}

int64_t TrainerManager::AwaitAssignment(int64_t standby, TrainerAnswer answer) {
  absl::StatusOr<v1::TrainerId> id;
  int64_t token = 0;
  {
    MutexLock lock(&mutex_);
    id = standbys_.Ask(standby);
    if (absl::IsUnavailable(id.status()) && stopping_all_.empty()) {
      token = next_token_++;
      waits_[token] = {.standby = standby, .trainer_id = answer};
    }
  }
  if (token == 0) answer(id);
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
    if (wait.trainer != nullptr && wait.trainer_id != nullptr) wait.trainer->release_awaited = false;
  }
  wait.Refuse(absl::CancelledError("the caller has gone"));
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
    leave = trainer->assignment.leave();
    const auto interrupted = [](const v1::TrainerPulse& pulse) {
      return pulse.activity() == v1::TRAINER_ACTIVITY_INTERRUPTED;
    };
    news = request.phase() != trainer->phase || request.has_restored() != trainer->restored.has_value() ||
           interrupted(request.pulse()) != interrupted(trainer->pulse);
    const bool settled = request.phase() != trainer->phase && request.phase() != v1::TRAINER_PHASE_PREPARING;
    trainer->pulse = request.pulse();
    trainer->watchdog.Hear(request.pulse());
    if (request.has_restored()) trainer->restored = request.restored();
    trainer->phase = request.phase();
    trainer->step = std::max(trainer->step, request.step());
    trainer->skipped_steps = request.skipped_steps();
    const int slot = trainer->assignment.slot();
    with_.metrics->SetSlotStep(slot, trainer->step);
    with_.metrics->SetSlotShare(slot, request.pulse().compute_seconds(), request.pulse().wait_seconds());
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
    if (settled) FillStandbysLocked();
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
