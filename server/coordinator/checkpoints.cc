#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

absl::Status CheckName(const CheckpointName& name, const v1::TrainerId& id, const v1::Checkpoint& checkpoint) {
  if (name.job.name() == id.job() && checkpoint.attempt() == id.attempt() &&
      name.checkpoint == MakeCheckpointId(checkpoint.step(), checkpoint.attempt())) {
    return absl::OkStatus();
  }
  return WithReason(
      absl::InvalidArgumentError(absl::StrCat("checkpoint.name: ", name.name(), " is not the name of step ",
                                              checkpoint.step(), " of attempt ", id.attempt(), " of ", id.job())),
      "BAD_CHECKPOINT_NAME");
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointFiles::Upload>> Coordinator::StartUpload(
    const v1::UploadCheckpointHeader& header) {
  SAB_ASSIGN_OR_RETURN(const CheckpointName name, ParseCheckpointName(header.checkpoint()));
  {
    MutexLock lock(&mutex_);
    SAB_RETURN_IF_ERROR(Fence(header.worker(), header.id()).status());
  }
  if (name.job.name() != header.id().job()) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("checkpoint: ", name.name(), " is not one of ", header.id().job())),
        "BAD_CHECKPOINT_NAME");
  }
  return files_.StartUpload(name, header.file());
}

absl::StatusOr<v1::Checkpoint> Coordinator::RecordCheckpoint(const v1::RecordCheckpointRequest& request) {
  SAB_ASSIGN_OR_RETURN(const CheckpointName name, ParseCheckpointName(request.checkpoint().name()));
  SAB_RETURN_IF_ERROR(CheckName(name, request.id(), request.checkpoint()));
  {
    MutexLock lock(&mutex_);
    SAB_ASSIGN_OR_RETURN(const JobEntry* entry, Fence(request.worker(), request.id()));
    if (auto it = entry->checkpoints.find(name.checkpoint); it != entry->checkpoints.end()) return it->second;
  }
  SAB_ASSIGN_OR_RETURN(v1::Checkpoint checkpoint, files_.Complete(name));
  if (checkpoint.step() != request.checkpoint().step() || checkpoint.attempt() != request.checkpoint().attempt()) {
    return WithReason(absl::DataLossError(absl::StrCat(name.name(), ": its manifest is of step ", checkpoint.step(),
                                                       " and attempt ", checkpoint.attempt())),
                      "CHECKPOINT_DAMAGED");
  }
  checkpoint.set_name(name.name());
  if (request.checkpoint().has_eval_loss()) checkpoint.set_eval_loss(request.checkpoint().eval_loss());
  if (request.checkpoint().has_ranked_figure()) checkpoint.set_ranked_figure(request.checkpoint().ranked_figure());
  *checkpoint.mutable_create_time() = ToProto(clock_->Now());

  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(JobEntry * entry, Fence(request.worker(), request.id()));
  // Its rank has come so far, even if its own report of that is still on its way or never arrives. Stored with it.
  if (entry->active.has_value() && checkpoint.attempt() == entry->record.job.attempt_count()) {
    Progress(*entry, entry->active->ranks[static_cast<size_t>(request.id().rank())], checkpoint.step());
  }
  const std::vector<std::string> excess = Excess(*entry, checkpoint);
  StoreChange change{.put_checkpoints = {checkpoint}, .delete_checkpoints = excess, .add_removals = excess};
  JobRecord next = entry->record;
  if (next.job.spec().has_halving() && checkpoint.has_ranked_figure()) {
    next.job.mutable_halving()->set_figure(checkpoint.ranked_figure());
    next.job.mutable_halving()->set_figure_step(checkpoint.step());
  }
  SAB_RETURN_IF_ERROR(Replace(*entry, std::move(next), std::move(change)));
  entry->checkpoints[name.checkpoint] = checkpoint;
  ReleaseInit(*entry);
  for (const std::string& dropped : excess) {
    entry->checkpoints.erase(ParseCheckpointName(dropped)->checkpoint);
    removals_.push_back(dropped);
  }
  if (!excess.empty()) hub_->Publish(kBackgroundKey);
  metrics_->checkpoints_recorded.Increment();
  metrics_->checkpoints_dropped.Increment(static_cast<double>(excess.size()));
  metrics_->checkpoint_bytes.Increment(static_cast<double>(checkpoint.size_bytes()));
  log::Info(absl::StrCat(name.name(), ": recorded, ", checkpoint.size_bytes(), " bytes"));
  return checkpoint;
}

std::vector<std::string> Coordinator::Excess(const JobEntry& entry, const v1::Checkpoint& added) {
  std::vector<const v1::Checkpoint*> all = {&added};
  for (const auto& [id, checkpoint] : entry.checkpoints) all.push_back(&checkpoint);
  std::set<std::string> kept = {added.name()};
  if (entry.active.has_value() && entry.active->resume.has_value()) kept.insert(entry.active->resume->name());
  const v1::CheckpointSpec& spec = entry.record.job.spec().checkpoint();
  const auto keep_first = [&](int64_t count) {
    for (size_t i = 0; i < all.size() && static_cast<int64_t>(i) < count; ++i) kept.insert(all[i]->name());
  };
  for (const v1::Checkpoint* checkpoint : all) {
    if (init_users_.contains(checkpoint->name())) kept.insert(checkpoint->name());
    if (spec.keep_every() > 0 && checkpoint->step() % spec.keep_every() == 0) kept.insert(checkpoint->name());
  }
  // Names sort by step, then attempt.
  std::sort(all.begin(), all.end(), [](const auto* a, const auto* b) { return a->name() > b->name(); });
  keep_first(spec.keep_latest());
  const std::vector<const v1::Checkpoint*> everything = all;
  std::erase_if(all, [](const auto* c) { return !c->has_eval_loss() || !std::isfinite(c->eval_loss()); });
  std::stable_sort(all.begin(), all.end(),
                   [](const auto* a, const auto* b) { return a->eval_loss() < b->eval_loss(); });
  keep_first(spec.keep_best());
  std::vector<std::string> excess;
  for (const v1::Checkpoint* checkpoint : everything) {
    if (!kept.contains(checkpoint->name())) excess.push_back(checkpoint->name());
  }
  return excess;
}

absl::StatusOr<v1::Checkpoint> Coordinator::VerifyRecorded(const CheckpointName& name) {
  SAB_ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint, GetCheckpoint(name));
  const absl::Status status = files_.Verify(checkpoint);
  if (absl::IsDataLoss(status) || absl::IsNotFound(status)) {
    return WithReason(absl::DataLossError(absl::StrCat(name.name(), ": ", status.message())), "CHECKPOINT_DAMAGED");
  }
  if (!status.ok()) return status;
  return checkpoint;
}

// Nobody will ever ask for what attempts that have ended left without its having been recorded.
bool Coordinator::CollectOne() {
  JobId id;
  std::set<std::string> recorded;
  int64_t ended = 0;
  {
    MutexLock lock(&mutex_);
    if (uncollected_.empty()) return false;
    id = *uncollected_.begin();
    uncollected_.erase(uncollected_.begin());
    const auto it = jobs_.find(id);
    if (it == jobs_.end()) return true;
    for (const auto& [name, checkpoint] : it->second.checkpoints) recorded.insert(name);
    const v1::Job& job = it->second.record.job;
    ended = IsActive(job.state()) ? job.attempt_count() - 1 : job.attempt_count();
  }
  for (const std::string& left : files_.RemoveLeftovers(id, recorded, ended))
    log::Info(absl::StrCat(id.name(), ": removed ", left, ", which an attempt left unrecorded"));
  return true;
}

absl::StatusOr<std::vector<v1::Checkpoint>> Coordinator::ListCheckpoints(const JobId& job) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(const JobEntry* entry, Find(job));
  std::vector<v1::Checkpoint> checkpoints;
  for (auto it = entry->checkpoints.rbegin(); it != entry->checkpoints.rend(); ++it) checkpoints.push_back(it->second);
  return checkpoints;
}

absl::StatusOr<v1::Checkpoint> Coordinator::GetCheckpoint(const CheckpointName& name) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(const JobEntry* entry, Find(name.job));
  auto it = entry->checkpoints.find(name.checkpoint);
  if (it != entry->checkpoints.end()) return it->second;
  return WithReason(absl::NotFoundError(absl::StrCat(name.name(), " does not exist; `sabctl checkpoint list ",
                                                     name.job.name(), "` shows those there are")),
                    "CHECKPOINT_NOT_FOUND");
}

}  // namespace sab::server
