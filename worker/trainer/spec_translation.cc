#include "worker/trainer/spec_translation.h"

#include <stdexcept>
#include <string>

#include "common/spec/validate.h"

namespace sab::trainer {
namespace {

v1::JobSpec Resolved(v1::JobSpec spec) {
  spec::ResolveDefaults(&spec);
  return spec;
}

model::TaskKind ToTaskKind(v1::TaskKind kind) {
  switch (kind) {
    case v1::TASK_KIND_COPY:
      return model::TaskKind::kCopy;
    case v1::TASK_KIND_ADDING:
      return model::TaskKind::kAdding;
    case v1::TASK_KIND_RECALL:
      return model::TaskKind::kRecall;
    case v1::TASK_KIND_TEXT:
      return model::TaskKind::kText;
    case v1::TASK_KIND_IMAGE:
      return model::TaskKind::kImage;
    case v1::TASK_KIND_TENSOR:
      return model::TaskKind::kTensor;
    default:
      throw std::invalid_argument("task.kind: missing");
  }
}

model::ScheduleKind ToScheduleKind(v1::ScheduleKind kind) {
  if (kind == v1::SCHEDULE_KIND_LINEAR) return model::ScheduleKind::kLinear;
  return kind == v1::SCHEDULE_KIND_COSINE ? model::ScheduleKind::kCosine : model::ScheduleKind::kConstant;
}

model::Condition ToCondition(const char* field, const std::string& text) {
  const auto parsed = spec::ParseCondition(text);
  if (!parsed.ok()) throw std::invalid_argument(std::string(field) + ": " + std::string(parsed.status().message()));
  using From = spec::Condition::Op;
  using To = model::Condition::Op;
  const To op = parsed->op == From::kAtLeast  ? To::kAtLeast
                : parsed->op == From::kAtMost ? To::kAtMost
                : parsed->op == From::kAbove  ? To::kAbove
                                              : To::kBelow;
  return {parsed->metric, op, parsed->value};
}

}  // namespace

model::TaskConfig ToTaskConfig(const v1::JobSpec& given) {
  const v1::JobSpec spec = Resolved(given);
  const v1::TaskSpec& from = spec.task();
  model::TaskConfig to;
  to.kind = ToTaskKind(from.kind());
  to.seed = static_cast<uint64_t>(spec.train().seed());
  to.batch_size = spec.train().batch_size();
  to.length = from.length();
  to.one_hot = from.one_hot();
  to.path = from.path();
  to.valid_path = from.valid_path();
  to.window = from.window();
  to.labels_path = from.labels_path();
  if (from.has_permute_seed()) to.permute_seed = static_cast<uint64_t>(from.permute_seed());
  to.eval_path = spec.eval().path();
  to.eval_labels_path = spec.eval().labels_path();
  return to;
}

model::TrainConfig ToTrainConfig(const v1::JobSpec& given) {
  const v1::JobSpec spec = Resolved(given);
  const v1::TrainSpec& from = spec.train();
  model::TrainConfig to;
  to.batch_size = from.batch_size();
  to.steps = from.steps();
  to.learning_rate = from.learning_rate();
  to.optimizer.kind =
      from.optimizer() == v1::OPTIMIZER_KIND_SGD ? model::OptimizerKind::kSgd : model::OptimizerKind::kAdam;
  to.optimizer.momentum = from.momentum();
  to.optimizer.weight_decay = from.weight_decay();
  to.schedule = {ToScheduleKind(from.schedule().kind()), from.schedule().warmup_steps(),
                 from.schedule().final_factor()};
  to.clip_norm = from.clip_norm();
  to.max_nonfinite_steps = from.max_nonfinite_steps();
  if (from.deterministic()) to.shards = from.shards();
  to.eval_every = spec.eval().every();
  to.eval_lengths.assign(spec.eval().lengths().begin(), spec.eval().lengths().end());
  to.eval_sequences = spec.eval().sequences();
  to.final_lengths.assign(spec.eval().final_lengths().begin(), spec.eval().final_lengths().end());
  to.final_sequences = spec.eval().final_sequences();
  if (!spec.eval().stop_when().empty()) to.stop_when = ToCondition("eval.stop_when", spec.eval().stop_when());
  to.checkpoint_every = spec.checkpoint().every();
  to.checkpoint_initial = spec.checkpoint().initial();
  if (spec.has_curriculum() && spec.curriculum().lengths_size() > 0) {
    to.curriculum.lengths.assign(spec.curriculum().lengths().begin(), spec.curriculum().lengths().end());
    to.curriculum.advance_when = ToCondition("curriculum.advance_when", spec.curriculum().advance_when());
    to.curriculum.vary = spec.curriculum().vary();
    to.curriculum.seed = static_cast<uint64_t>(spec.train().seed());
  }
  to.ranked_by = spec.halving().metric();
  return to;
}

}  // namespace sab::trainer
