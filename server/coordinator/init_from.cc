// Jobs that start from another job's checkpoint: what they may start from, and how long it is kept for them.
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/safetensors.h"
#include "common/spec/parameters.h"
#include "common/spec/validate.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

constexpr char kField[] = "init_from.checkpoint";

absl::Status Refuse(const std::string& field, const std::string& reason) {
  return WithReason(InvalidFields({{field, reason}}), "INVALID_SPEC");
}

// What the optimiser's state and the step ask of the settings.
std::vector<FieldViolation> CheckContinuation(const v1::JobSpec& spec, const v1::JobSpec& trained,
                                              const v1::Checkpoint& checkpoint) {
  std::vector<FieldViolation> violations;
  if (!spec.init_from().optimizer()) return violations;
  if (spec.train().optimizer() != trained.train().optimizer() ||
      (spec.train().momentum() == 0) != (trained.train().momentum() == 0)) {
    violations.push_back(
        {"init_from.optimizer", absl::StrCat(checkpoint.name(),
                                             " holds the state of another optimiser: give train.optimizer "
                                             "and train.momentum as that job has them, or leave it out")});
  }
  if (spec.train().steps() <= checkpoint.step()) {
    violations.push_back({"train.steps", absl::StrCat("must be above ", checkpoint.step(), ", the step of ",
                                                      checkpoint.name(), ", got ", spec.train().steps())});
  }
  if (spec.has_halving() && spec.halving().rungs(0) <= checkpoint.step()) {
    violations.push_back({"halving.rungs[0]", absl::StrCat("must be above ", checkpoint.step(), ", the step of ",
                                                           checkpoint.name(), ", got ", spec.halving().rungs(0))});
  }
  return violations;
}

}  // namespace

absl::StatusOr<const v1::Checkpoint*> Coordinator::FindInit(const v1::JobSpec& spec) {
  const absl::StatusOr<CheckpointName> name = ParseCheckpointName(spec.init_from().checkpoint());
  if (!name.ok()) return Refuse(kField, std::string(name.status().message()));
  const auto job = jobs_.find(name->job);
  if (job == jobs_.end()) {
    return Refuse(kField, absl::StrCat(name->job.name(), " does not exist; `sabctl list` shows the jobs there are"));
  }
  if (!spec::IsTraining(job->second.record.job.spec())) {
    return Refuse(kField, absl::StrCat(name->name(), " is a result, not a checkpoint: ", name->job.name(),
                                       " does not train; name a checkpoint of a job that does"));
  }
  const auto found = job->second.checkpoints.find(name->checkpoint);
  if (found != job->second.checkpoints.end()) return &found->second;
  return Refuse(kField, absl::StrCat(name->name(), " does not exist, or not any more; `sabctl checkpoint list ",
                                     name->job.name(), "` shows those there are"));
}

absl::Status Coordinator::CheckInit(const v1::JobSpec& spec) {
  if (!spec.has_init_from()) return absl::OkStatus();
  v1::Checkpoint checkpoint;
  v1::JobSpec trained;
  {
    MutexLock lock(&mutex_);
    SAB_ASSIGN_OR_RETURN(const v1::Checkpoint* found, FindInit(spec));
    checkpoint = *found;
    trained = jobs_.at(ParseCheckpointName(checkpoint.name())->job).record.job.spec();
  }
  const CheckpointName name = *ParseCheckpointName(checkpoint.name());
  // Sizes alone: its digests are compared before a trainer reads it.
  const std::string folder = files_.FolderOf(name);
  if (const auto complete = VerifyCheckpoint(folder, /*digests=*/false); !complete.ok()) {
    return Refuse(kField, absl::StrCat(name.name(), " is damaged: ", std::string(complete.status().message()),
                                       "; name another one of ", name.job.name()));
  }
  const auto file = SafetensorsFile::Open(absl::StrCat(folder, "/", std::string(kModelFile)));
  if (!file.ok()) return Refuse(kField, absl::StrCat(name.name(), ": ", std::string(file.status().message())));
  std::vector<spec::ParameterShape> stored;
  for (const TensorView& tensor : (*file)->tensors()) stored.push_back({tensor.name, tensor.shape});
  std::vector<FieldViolation> violations = spec::CheckFits(spec, name.name(), trained, stored);
  for (FieldViolation& violation : CheckContinuation(spec, trained, checkpoint)) violations.push_back(violation);
  return violations.empty() ? absl::OkStatus() : WithReason(InvalidFields(violations), "INVALID_SPEC");
}

// Until it has a checkpoint of its own, every start of the job needs that one.
void Coordinator::KeepInit(const JobEntry& entry) {
  const v1::JobSpec& spec = entry.record.job.spec();
  if (!spec.has_init_from() || IsFinal(entry.record.job.state())) return;
  if (spec::IsTraining(spec) && !entry.checkpoints.empty()) return;
  init_users_[spec.init_from().checkpoint()].insert(entry.id);
}

void Coordinator::ReleaseInit(const JobEntry& entry) {
  const auto it = init_users_.find(entry.record.job.spec().init_from().checkpoint());
  if (it == init_users_.end()) return;
  it->second.erase(entry.id);
  if (it->second.empty()) init_users_.erase(it);
}

const v1::Checkpoint* Coordinator::StartingPoint(const JobEntry& entry) {
  const v1::JobSpec& spec = entry.record.job.spec();
  if (spec::IsTraining(spec) && !entry.checkpoints.empty()) return &entry.checkpoints.rbegin()->second;
  if (!spec.has_init_from()) return nullptr;
  const auto found = FindInit(spec);
  return found.ok() ? *found : nullptr;
}

// The step that training is at when it starts from `checkpoint`.
int64_t Coordinator::StartStep(const JobEntry& entry, const v1::Checkpoint& checkpoint) {
  const bool own = ParseCheckpointName(checkpoint.name())->job == entry.id;
  return own || entry.record.job.spec().init_from().optimizer() ? checkpoint.step() : 0;
}

}  // namespace sab::server
