#include "common/spec/update.h"

#include <google/protobuf/message.h>

#include <algorithm>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/spec/validate.h"

namespace sab::spec {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// What the trainers read between two steps.
const std::set<std::string>& TrainingFields() {
  static const auto& fields = *new std::set<std::string>{"train.learning_rate",
                                                         "train.clip_norm",
                                                         "train.steps",
                                                         "train.max_nonfinite_steps",
                                                         "train.schedule.kind",
                                                         "train.schedule.warmup_steps",
                                                         "train.schedule.final_factor",
                                                         "model.k_trunc",
                                                         "model.k_att",
                                                         "model.k_top",
                                                         "model.recall",
                                                         "model.truncate",
                                                         "model.mental_updates",
                                                         "model.detach_scores",
                                                         "model.tie_guard",
                                                         "model.dense",
                                                         "model.memory_state",
                                                         "model.memory.capacity",
                                                         "model.memory.policy",
                                                         "model.memory.recent",
                                                         "model.normaliser",
                                                         "model.recompute",
                                                         "model.cuda_graphs",
                                                         "task.length",
                                                         "eval.every",
                                                         "eval.lengths",
                                                         "eval.sequences",
                                                         "eval.stop_when",
                                                         "eval.final_lengths",
                                                         "eval.final_sequences",
                                                         "checkpoint.every"};
  return fields;
}

// What the coordinator alone reads.
const std::set<std::string>& CoordinatorFields() {
  static const auto& fields = *new std::set<std::string>{
      "checkpoint.keep_latest", "checkpoint.keep_best", "checkpoint.keep_every", "queue.priority",
      "queue.max_restarts",     "queue.preemptible",    "queue.time_limit"};
  return fields;
}

const std::set<std::string>& ShapeFields() {
  static const auto& fields = *new std::set<std::string>{"model.kind",           "model.hidden_size", "model.score",
                                                         "model.embedding_size", "task.kind",         "task.one_hot"};
  return fields;
}

// Null: there is no such setting.
const FieldDescriptor* FindField(const std::string& path) {
  const google::protobuf::Descriptor* type = v1::JobSpec::descriptor();
  for (size_t begin = 0;;) {
    const size_t dot = path.find('.', begin);
    const FieldDescriptor* field = type->FindFieldByName(path.substr(begin, dot - begin));
    if (field == nullptr || dot == std::string::npos) return field;
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return nullptr;
    type = field->message_type();
    begin = dot + 1;
  }
}

// The field as it is in `from`, absent if it is absent there.
void CopySetting(const std::string& path, const Message& from, Message* to) {
  const size_t dot = path.find('.');
  const FieldDescriptor* field = from.GetDescriptor()->FindFieldByName(path.substr(0, dot));
  if (dot != std::string::npos) {
    const bool nowhere = !from.GetReflection()->HasField(from, field) && !to->GetReflection()->HasField(*to, field);
    if (nowhere) return;
    return CopySetting(path.substr(dot + 1), from.GetReflection()->GetMessage(from, field),
                       to->GetReflection()->MutableMessage(to, field));
  }
  to->GetReflection()->ClearField(to, field);
  const std::unique_ptr<Message> only(from.New());
  only->CopyFrom(from);
  std::vector<const FieldDescriptor*> set;
  only->GetReflection()->ListFields(*only, &set);
  for (const FieldDescriptor* other : set) {
    if (other != field) only->GetReflection()->ClearField(only.get(), other);
  }
  to->MergeFrom(*only);
}

std::string WhyFixed(const std::string& field) {
  if (FindField(field) == nullptr) return "there is no such setting";
  std::vector<std::string> all(TrainingFields().begin(), TrainingFields().end());
  all.insert(all.end(), CoordinatorFields().begin(), CoordinatorFields().end());
  if (ShapeFields().contains(field)) {
    return "changes the shapes of the parameters, which a job keeps for life; submit a new job";
  }
  return absl::StrCat(
      "is fixed for the life of a job; submit a new one, with --from to start from this one's parameters. These can be "
      "changed: ",
      absl::StrJoin(all, ", "));
}

}  // namespace

std::vector<FieldViolation> ApplyUpdate(const std::vector<std::string>& fields, const v1::JobSpec& values,
                                        v1::JobSpec* spec, std::vector<std::string>* training) {
  std::vector<FieldViolation> violations;
  const v1::JobSpec before = *spec;
  v1::JobSpec after = before;
  for (const std::string& field : fields) {
    if (TrainingFields().contains(field) || CoordinatorFields().contains(field)) {
      CopySetting(field, values, &after);
    } else {
      violations.push_back({field, WhyFixed(field)});
    }
  }
  if (!violations.empty()) return violations;
  ResolveDefaults(&after);
  training->clear();
  for (const std::string& field : fields) {
    const std::vector<std::string> one = {field};
    const bool same = Pick(one, before).SerializeAsString() == Pick(one, after).SerializeAsString();
    if (TrainingFields().contains(field) && !same && std::count(training->begin(), training->end(), field) == 0)
      training->push_back(field);
  }
  if (!training->empty() && !IsTraining(before))
    return {{training->front(), "the job does not train: submit it again with the other value"}};
  *spec = std::move(after);
  return {};
}

v1::JobSpec Pick(const std::vector<std::string>& fields, const v1::JobSpec& spec) {
  v1::JobSpec picked;
  for (const std::string& field : fields) CopySetting(field, spec, &picked);
  return picked;
}

void Undo(const v1::SpecChange& change, v1::JobSpec* spec) {
  for (const std::string& field : change.fields()) CopySetting(field, change.before(), spec);
}

v1::JobSpec SpecOfStep(const v1::JobSpec& spec, const SpecChanges& changes, int64_t step) {
  v1::JobSpec then = spec;
  for (auto change = changes.rbegin(); change != changes.rend(); ++change) {
    if (change->has_after_step() && step <= change->after_step()) Undo(*change, &then);
  }
  return then;
}

void Settle(int64_t step, SpecChanges* changes) {
  const bool any = std::any_of(changes->begin(), changes->end(),
                               [](const v1::SpecChange& change) { return !change.has_after_step(); });
  if (!any) return;
  for (v1::SpecChange& change : *changes) {
    if (!change.has_after_step() || change.after_step() > step) change.set_after_step(step);
  }
}

}  // namespace sab::spec
