#include "common/spec/validate.h"

#include <fcntl.h>
#include <google/protobuf/message.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/ids.h"
#include "common/base/memory_sizes.h"
#include "common/spec/words.h"

namespace sab::spec {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr int64_t kMany = 1'000'000'000;  // a bound where none is natural, so that sums and products stay in range
constexpr int64_t kMaxLength = 100'000'000;
constexpr int kMostAfter = 64;
constexpr int kMostRungs = 64;

// Settings of which kinds of task, by path.
bool HasLength(v1::TaskKind kind) {
  return kind == v1::TASK_KIND_COPY || kind == v1::TASK_KIND_ADDING || kind == v1::TASK_KIND_RECALL;
}
bool HasPath(v1::TaskKind kind) {
  return kind == v1::TASK_KIND_TEXT || kind == v1::TASK_KIND_IMAGE || kind == v1::TASK_KIND_TENSOR;
}
int64_t LeastLength(v1::TaskKind kind) {
  return kind == v1::TASK_KIND_COPY ? 1 : 2;
}

std::string TaskWord(v1::TaskKind kind) {
  const auto* value = v1::TaskKind_descriptor()->FindValueByNumber(kind);
  return value == nullptr ? "" : Word(*value);
}
std::string ModelWord(v1::ModelKind kind) {
  const auto* value = v1::ModelKind_descriptor()->FindValueByNumber(kind);
  return value == nullptr ? "" : Word(*value);
}

// Is the field given? Fields without presence count as given when they are not zero.
bool IsSet(const Message& message, const FieldDescriptor* field) {
  const auto* reflection = message.GetReflection();
  return field->is_repeated() ? reflection->FieldSize(message, field) > 0 : reflection->HasField(message, field);
}

class Checker {
 public:
  explicit Checker(const v1::JobSpec& spec) : spec_(spec), task_(spec.task().kind()), model_(spec.model().kind()) {
    if (model_ == v1::MODEL_KIND_UNSPECIFIED) model_ = v1::MODEL_KIND_SAB;
  }

  std::vector<FieldViolation> Run() {
    if (!EveryValueExists(spec_, "")) return std::move(violations_);  // numbers no later rule could make sense of
    Name();
    Model();
    Memory();
    Task();
    Labels();
    Train();
    Eval();
    Checkpoint();
    ResourcesAndQueue();
    Curriculum();
    InitFrom();
    Action();
    Halving();
    return std::move(violations_);
  }

 private:
  void Add(const std::string& field, const std::string& reason) { violations_.push_back({field, reason}); }

  // Enum numbers that the API does not have, NaN and infinities.
  bool EveryValueExists(const Message& message, const std::string& prefix) {
    std::vector<const FieldDescriptor*> fields;
    message.GetReflection()->ListFields(message, &fields);
    for (const FieldDescriptor* field : fields) {
      const std::string path = prefix + field->name();
      if (field->is_repeated()) continue;
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        EveryValueExists(message.GetReflection()->GetMessage(message, field), path + ".");
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
        const int number = message.GetReflection()->GetEnumValue(message, field);
        if (field->enum_type()->FindValueByNumber(number) == nullptr) {
          Add(path, absl::StrCat("must be one of ", absl::StrJoin(Words(*field->enum_type()), ", "), ", got number ",
                                 number));
        }
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
        const double value = message.GetReflection()->GetDouble(message, field);
        if (!std::isfinite(value)) Add(path, absl::StrCat("must be a finite number, got ", value));
      }
    }
    return violations_.empty();
  }

  void Range(const std::string& field, int64_t value, int64_t least, int64_t most = kMany) {
    if (value < least) Add(field, absl::StrCat("must be at least ", least, ", got ", value));
    if (value > most) Add(field, absl::StrCat("must be at most ", most, ", got ", value));
  }
  void NotNegative(const std::string& field, double value) {
    if (value < 0) Add(field, absl::StrCat("must be at least 0, got ", value));
  }

  // Refuses the given fields of `message` when the kind of model or task is not among those they belong to.
  void OnlyFor(bool applies, const Message& message, const std::string& section, const std::vector<std::string>& fields,
               const std::string& whose, const std::string& present) {
    if (applies) return;
    for (const std::string& name : fields) {
      const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
      if (IsSet(message, field)) {
        Add(absl::StrCat(section, ".", name),
            absl::StrCat("is a setting of ", whose, ", but ", present, "; remove it"));
      }
    }
  }
  void OnlyForModels(std::initializer_list<v1::ModelKind> kinds, const std::vector<std::string>& fields) {
    std::vector<std::string> words;
    for (v1::ModelKind kind : kinds) words.push_back("model.kind " + ModelWord(kind));
    OnlyFor(std::find(kinds.begin(), kinds.end(), model_) != kinds.end(), spec_.model(), "model", fields,
            absl::StrJoin(words, " and "), "model.kind is " + ModelWord(model_));
  }
  void OnlyForTasks(std::initializer_list<v1::TaskKind> kinds, const Message& message, const std::string& section,
                    const std::vector<std::string>& fields) {
    if (task_ == v1::TASK_KIND_UNSPECIFIED) return;  // one violation is enough
    std::vector<std::string> words;
    for (v1::TaskKind kind : kinds) words.push_back(TaskWord(kind));
    OnlyFor(std::find(kinds.begin(), kinds.end(), task_) != kinds.end(), message, section, fields,
            absl::StrCat(words.size() > 1 ? "the tasks " : "the task ", absl::StrJoin(words, ", ")),
            "task.kind is " + TaskWord(task_));
  }

  void Name() {
    const std::string& name = spec_.name();
    if (name.empty()) return Add("name", "must be given, for example `name: copy-100`");
    const bool good = name.size() <= 63 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
                        return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
                      });
    if (!good)
      Add("name", absl::StrCat("must be 1 to 63 characters of A-Z a-z 0-9 . _ -, got \"", name.substr(0, 80), "\""));
  }

  void Model() {
    const v1::ModelSpec& model = spec_.model();
    if (model.has_hidden_size()) Range("model.hidden_size", model.hidden_size(), 1, 16384);
    OnlyForModels({v1::MODEL_KIND_SAB, v1::MODEL_KIND_LSTM}, {"k_trunc", "truncate"});
    OnlyForModels({v1::MODEL_KIND_SAB}, {"k_att", "k_top", "score", "recall", "mental_updates", "detach_scores",
                                         "tie_guard", "dense", "memory_state", "memory"});
    OnlyForModels({v1::MODEL_KIND_ATTENTION}, {"normaliser"});
    OnlyForModels({v1::MODEL_KIND_SAB, v1::MODEL_KIND_ATTENTION}, {"init", "init_std"});
    if (model.has_k_trunc()) Range("model.k_trunc", model.k_trunc(), 0);
    if (model.has_k_att()) Range("model.k_att", model.k_att(), 1);
    if (model.has_k_top()) Range("model.k_top", model.k_top(), 1);
    if (model.has_tie_guard()) NotNegative("model.tie_guard", model.tie_guard());
    if (model.has_init_std() && model.init_std() <= 0) {
      Add("model.init_std", absl::StrCat("must be above 0, got ", model.init_std()));
    }
    OnlyForTasks({v1::TASK_KIND_TEXT, v1::TASK_KIND_TENSOR}, model, "model", {"embedding_size"});
    if (model.has_embedding_size()) Range("model.embedding_size", model.embedding_size(), 0, 16384);
  }

  void Memory() {
    if (!spec_.model().has_memory()) return;
    const v1::MemorySpec& memory = spec_.model().memory();
    const int64_t k_top = spec_.model().has_k_top() ? spec_.model().k_top() : 5;
    Range("model.memory.capacity", memory.capacity(), 0);
    if (memory.capacity() > 0 && k_top <= kMany && memory.capacity() < k_top + 2) {
      Add("model.memory.capacity",
          absl::StrCat("must be 0 (no bound) or at least k_top + 2 = ", k_top + 2, ", got ", memory.capacity()));
    }
    if (memory.policy() != v1::MEMORY_POLICY_SALIENT) {
      if (memory.has_recent()) Add("model.memory.recent", "is a setting of `policy: salient`; remove it");
      return;
    }
    const int64_t recent = memory.has_recent() ? memory.recent() : 16;
    Range("model.memory.recent", recent, 0);
    if (memory.capacity() > 0 && recent > memory.capacity() - 2) {
      Add("model.memory.recent",
          absl::StrCat("must be at most capacity - 2 = ", memory.capacity() - 2, ", got ", recent));
    }
  }

  void Path(const std::string& field, const std::string& path) {
    if (path.empty()) return;
    if (path[0] != '/') Add(field, absl::StrCat("must be an absolute path, got \"", path.substr(0, 200), "\""));
    if (path.size() > 4095) Add(field, "must be at most 4095 bytes long");
    if (path.find('\0') != std::string::npos) Add(field, "must not contain a zero byte");
  }

  void Task() {
    const v1::TaskSpec& task = spec_.task();
    if (task_ == v1::TASK_KIND_UNSPECIFIED) {
      Add("task.kind", absl::StrCat("must be given: one of ", absl::StrJoin(Words(*v1::TaskKind_descriptor()), ", ")));
    }
    OnlyForTasks({v1::TASK_KIND_COPY, v1::TASK_KIND_ADDING, v1::TASK_KIND_RECALL}, task, "task", {"length"});
    if (HasLength(task_)) {
      if (!task.has_length()) Add("task.length", absl::StrCat("must be given for task ", TaskWord(task_)));
      if (task.has_length()) Range("task.length", task.length(), LeastLength(task_), kMaxLength);
    }
    OnlyForTasks({v1::TASK_KIND_COPY}, task, "task", {"one_hot"});
    OnlyForTasks({v1::TASK_KIND_TEXT, v1::TASK_KIND_IMAGE, v1::TASK_KIND_TENSOR}, task, "task", {"path"});
    if (HasPath(task_) && task.path().empty())
      Add("task.path", absl::StrCat("must be given for task ", TaskWord(task_)));
    Path("task.path", task.path());
    OnlyForTasks({v1::TASK_KIND_TEXT}, task, "task", {"valid_path", "window"});
    Path("task.valid_path", task.valid_path());
    if (task.has_window()) Range("task.window", task.window(), 1, kMaxLength);
    OnlyForTasks({v1::TASK_KIND_IMAGE}, task, "task", {"labels_path", "permute_seed"});
    Path("task.labels_path", task.labels_path());
    if (task.has_permute_seed()) Range("task.permute_seed", task.permute_seed(), 0, int64_t{1} << 53);
  }

  void Labels() {
    if (spec_.labels_size() > 64) Add("labels", absl::StrCat("must be at most 64, got ", spec_.labels_size()));
    for (const auto& [key, value] : std::map<std::string, std::string>(spec_.labels().begin(), spec_.labels().end())) {
      const bool good_key =
          !key.empty() && key.size() <= 63 && std::all_of(key.begin(), key.end(), [](unsigned char c) {
            return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-' || c == '/';
          });
      const bool good_value = value.size() <= 128 && std::none_of(value.begin(), value.end(), [](unsigned char c) {
                                return c < 0x20 || c == 0x7F;
                              });
      const std::string field = "labels." + key.substr(0, 80);
      if (!good_key) Add(field, "its key must be 1 to 63 characters of A-Z a-z 0-9 . _ - /");
      if (!good_value) Add(field, "must be at most 128 bytes without control characters");
    }
  }

  int64_t Replicas() const { return spec_.resources().has_replicas() ? spec_.resources().replicas() : 1; }

  void Train() {
    const v1::TrainSpec& train = spec_.train();
    const int64_t batch_size = train.has_batch_size() ? train.batch_size() : 64;
    Range("train.batch_size", batch_size, 1, 1 << 24);
    if (batch_size >= 1 && batch_size < Replicas() && Replicas() <= 4096) {
      Add("train.batch_size", absl::StrCat("must be at least resources.replicas = ", Replicas(), ", got ", batch_size));
    }
    if (!train.has_steps() && IsTraining(spec_)) Add("train.steps", "must be given, for example `steps: 20000`");
    if (train.has_steps()) Range("train.steps", train.steps(), 1, int64_t{1} << 53);
    if (train.has_learning_rate() && train.learning_rate() <= 0) {
      Add("train.learning_rate", absl::StrCat("must be above 0, got ", train.learning_rate()));
    }
    if (train.has_momentum()) {
      if (train.optimizer() != v1::OPTIMIZER_KIND_SGD)
        Add("train.momentum", "is a setting of `optimizer: sgd`; remove it");
      if (train.momentum() < 0 || train.momentum() >= 1) {
        Add("train.momentum", absl::StrCat("must be at least 0 and below 1, got ", train.momentum()));
      }
    }
    NotNegative("train.weight_decay", train.weight_decay());
    NotNegative("train.clip_norm", train.clip_norm());
    if (train.has_seed()) Range("train.seed", train.seed(), 0, int64_t{1} << 53);
    const bool needs_gpu = train.precision() == v1::PRECISION_KIND_TF32 || train.precision() == v1::PRECISION_KIND_BF16;
    if (needs_gpu && spec_.resources().device() == v1::DEVICE_KIND_CPU) {
      Add("train.precision", "tf32 and bf16 need GPUs, but resources.device is cpu; use fp32");
    }
    Schedule(train);
    if (train.has_max_nonfinite_steps()) Range("train.max_nonfinite_steps", train.max_nonfinite_steps(), 1);
    Shards(train, batch_size);
  }

  void Shards(const v1::TrainSpec& train, int64_t batch_size) {
    if (!train.deterministic()) {
      if (train.has_shards()) Add("train.shards", "is a setting of `deterministic: true`; remove it");
      return;
    }
    const int64_t shards = train.has_shards() ? train.shards() : kDefaultShards;
    if (shards < 1 || shards > 4096 || (shards & (shards - 1)) != 0) {
      return Add("train.shards", absl::StrCat("must be a power of two from 1 to 4096, got ", shards));
    }
    if (batch_size >= 1 && batch_size % shards != 0) {
      Add("train.batch_size", absl::StrCat("must be divisible by train.shards = ", shards,
                                           ", as train.deterministic is true, got ", batch_size));
    }
    const auto divides = [&](const char* field, int64_t replicas) {
      if (replicas < 1 || shards % replicas == 0) return;
      Add(field,
          absl::StrCat("must divide train.shards = ", shards, ", as train.deterministic is true, got ", replicas));
    };
    divides("resources.replicas", Replicas());
    if (spec_.resources().has_min_replicas()) divides("resources.min_replicas", spec_.resources().min_replicas());
  }

  void Schedule(const v1::TrainSpec& train) {
    const v1::ScheduleSpec& schedule = train.schedule();
    const bool constant =
        schedule.kind() == v1::SCHEDULE_KIND_UNSPECIFIED || schedule.kind() == v1::SCHEDULE_KIND_CONSTANT;
    Range("train.schedule.warmup_steps", schedule.warmup_steps(), 0, int64_t{1} << 53);
    if (train.has_steps() && train.steps() >= 1 && schedule.warmup_steps() > train.steps()) {
      Add("train.schedule.warmup_steps",
          absl::StrCat("must be at most train.steps = ", train.steps(), ", got ", schedule.warmup_steps()));
    }
    if (constant && schedule.final_factor() != 0) {
      Add("train.schedule.final_factor", "is a setting of `kind: linear` and `kind: cosine`; remove it");
    } else if (schedule.final_factor() < 0 || schedule.final_factor() > 1) {
      Add("train.schedule.final_factor", absl::StrCat("must be from 0 to 1, got ", schedule.final_factor()));
    }
  }

  void ConditionOf(const std::string& field, const std::string& text) {
    const absl::StatusOr<Condition> condition = ParseCondition(text);
    if (!condition.ok()) return Add(field, std::string(condition.status().message()));
    const std::vector<std::string> metrics = EvalMetrics(task_);
    if (task_ == v1::TASK_KIND_UNSPECIFIED ||
        std::find(metrics.begin(), metrics.end(), condition->metric) != metrics.end())
      return;
    Add(field, absl::StrCat("names the metric \"", condition->metric, "\", but task ", TaskWord(task_), " reports ",
                            absl::StrJoin(metrics, ", ")));
  }

  void Lengths(const std::string& field, const google::protobuf::RepeatedField<int64_t>& lengths) {
    if (!HasLength(task_)) return;
    if (lengths.size() > 64) Add(field, absl::StrCat("must be at most 64 lengths, got ", lengths.size()));
    for (int i = 0; i < std::min(lengths.size(), 64); ++i) {
      Range(absl::StrCat(field, "[", i, "]"), lengths[i], LeastLength(task_), kMaxLength);
    }
  }

  // Lengths that are not in `seen` yet, and then are.
  void DistinctLengths(const std::string& field, const google::protobuf::RepeatedField<int64_t>& lengths,
                       std::set<int64_t>* seen) {
    Lengths(field, lengths);
    for (int i = 0; i < lengths.size(); ++i) {
      if (seen->insert(lengths[i]).second) continue;
      Add(absl::StrCat(field, "[", i, "]"), absl::StrCat(lengths[i], " is listed twice"));
    }
  }

  void Eval() {
    const v1::EvalSpec& eval = spec_.eval();
    if (eval.has_every()) Range("eval.every", eval.every(), 0, int64_t{1} << 53);
    OnlyForTasks({v1::TASK_KIND_COPY, v1::TASK_KIND_ADDING, v1::TASK_KIND_RECALL}, eval, "eval",
                 {"lengths", "final_lengths", "final_sequences"});
    std::set<int64_t> seen;
    DistinctLengths("eval.lengths", eval.lengths(), &seen);
    DistinctLengths("eval.final_lengths", eval.final_lengths(), &seen);
    if (eval.has_final_sequences()) Range("eval.final_sequences", eval.final_sequences(), 1, 100'000'000);
    if (eval.has_sequences()) Range("eval.sequences", eval.sequences(), 1, 100'000'000);
    if (!eval.stop_when().empty()) ConditionOf("eval.stop_when", eval.stop_when());
    OnlyForTasks({v1::TASK_KIND_IMAGE, v1::TASK_KIND_TENSOR}, eval, "eval", {"path"});
    Path("eval.path", eval.path());
    OnlyForTasks({v1::TASK_KIND_IMAGE}, eval, "eval", {"labels_path"});
    Path("eval.labels_path", eval.labels_path());
    if (task_ == v1::TASK_KIND_IMAGE && !eval.labels_path().empty() && eval.path().empty()) {
      Add("eval.labels_path", "labels the images of eval.path, which is not given");
    }
  }

  void Checkpoint() {
    const v1::CheckpointSpec& checkpoint = spec_.checkpoint();
    if (checkpoint.has_every()) Range("checkpoint.every", checkpoint.every(), 0, int64_t{1} << 53);
    if (checkpoint.has_keep_latest()) Range("checkpoint.keep_latest", checkpoint.keep_latest(), 1, 1'000'000);
    if (checkpoint.has_keep_best()) Range("checkpoint.keep_best", checkpoint.keep_best(), 0, 1'000'000);
    if (checkpoint.has_keep_every()) Range("checkpoint.keep_every", checkpoint.keep_every(), 0, int64_t{1} << 53);
    if (const auto interval = ParseSaveInterval(checkpoint.within_update()); !interval.ok()) {
      Add("checkpoint.within_update", std::string(interval.status().message()));
    }
  }

  void ResourcesAndQueue() {
    if (spec_.resources().has_replicas()) Range("resources.replicas", spec_.resources().replicas(), 1, 4096);
    if (spec_.resources().has_min_replicas()) {
      Range("resources.min_replicas", spec_.resources().min_replicas(), 1, std::clamp<int64_t>(Replicas(), 1, 4096));
    }
    if (spec_.queue().has_priority()) Range("queue.priority", spec_.queue().priority(), 0, 100);
    if (spec_.queue().has_max_restarts()) Range("queue.max_restarts", spec_.queue().max_restarts(), 0, 1'000'000);
    if (const auto memory = ParseMemory(spec_.resources().min_gpu_memory()); !memory.ok()) {
      Add("resources.min_gpu_memory", std::string(memory.status().message()));
    } else if (*memory > 0 && spec_.resources().device() == v1::DEVICE_KIND_CPU) {
      Add("resources.min_gpu_memory", "is for GPUs, but resources.device is cpu; remove it");
    }
    if (const auto memory = ParseMemory(spec_.resources().memory()); !memory.ok()) {
      Add("resources.memory", std::string(memory.status().message()));
    } else if (*memory > 0 && spec_.resources().device() == v1::DEVICE_KIND_CUDA) {
      Add("resources.memory", "is for CPU slots, but resources.device is cuda; use resources.min_gpu_memory");
    }
    Queue();
  }

  void Queue() {
    const v1::QueueSpec& queue = spec_.queue();
    if (queue.name().size() > 63) Add("queue.name", "must have at most 63 characters");
    if (const auto limit = ParseTimeLimit(queue.time_limit()); !limit.ok()) {
      Add("queue.time_limit", std::string(limit.status().message()));
    }
    if (queue.after_size() > kMostAfter) {
      return Add("queue.after", absl::StrCat("must be at most ", kMostAfter, " jobs, got ", queue.after_size()));
    }
    std::set<std::string> seen;
    for (int i = 0; i < queue.after_size(); ++i) {
      const std::string field = absl::StrCat("queue.after[", i, "]");
      if (const auto job = ParseJobName(queue.after(i)); !job.ok()) {
        Add(field, std::string(job.status().message()));
      } else if (!seen.insert(queue.after(i)).second) {
        Add(field, absl::StrCat(queue.after(i), " is listed twice"));
      }
    }
    if (queue.group().size() > 63) Add("queue.group", "must have at most 63 characters");
    if (queue.has_max_parallel()) {
      Range("queue.max_parallel", queue.max_parallel(), 1, 1'000'000);
      if (queue.group().empty()) Add("queue.max_parallel", "bounds a group, but queue.group is not given");
    }
    if (queue.after().empty() && queue.after_failure() != v1::AFTER_FAILURE_KIND_UNSPECIFIED) {
      Add("queue.after_failure", "is for jobs that run after others, but queue.after is empty; remove it");
    }
  }

  void Curriculum() {
    if (!spec_.has_curriculum()) return;
    const v1::CurriculumSpec& curriculum = spec_.curriculum();
    if (task_ == v1::TASK_KIND_UNSPECIFIED) return;
    if (!HasLength(task_)) {
      return Add("curriculum",
                 absl::StrCat("is for tasks with a length, but task.kind is ", TaskWord(task_), "; remove it"));
    }
    Lengths("curriculum.lengths", curriculum.lengths());
    const auto& lengths = curriculum.lengths();
    if (lengths.empty()) Add("curriculum.lengths", "must be given, for example `lengths: [20, 50, 100]`");
    for (int i = 1; i < lengths.size(); ++i) {
      if (lengths[i] <= lengths[i - 1]) {
        Add(absl::StrCat("curriculum.lengths[", i, "]"),
            absl::StrCat("must be above the one before it, ", lengths[i - 1], ", got ", lengths[i]));
      }
    }
    if (!lengths.empty() && spec_.task().has_length() && lengths[lengths.size() - 1] != spec_.task().length()) {
      Add("curriculum.lengths", absl::StrCat("must end with task.length = ", spec_.task().length(), ", the goal, got ",
                                             lengths[lengths.size() - 1]));
    }
    if (curriculum.advance_when().empty()) {
      Add("curriculum.advance_when", "must be given, for example `advance_when: \"accuracy >= 0.99\"`");
    } else {
      ConditionOf("curriculum.advance_when", curriculum.advance_when());
    }
  }

  void InitFrom() {
    if (!spec_.has_init_from()) return;
    const v1::InitSpec& init = spec_.init_from();
    if (init.checkpoint().empty()) {
      Add("init_from.checkpoint",
          "must be given: jobs/JOB/checkpoints/CHECKPOINT, as `sabctl checkpoint list` shows it");
    } else if (const auto name = ParseCheckpointName(init.checkpoint()); !name.ok()) {
      Add("init_from.checkpoint", std::string(name.status().message()));
    }
  }

  // Settings of one action alone; what a job that does not train has no use for.
  void Action() {
    const v1::ActionKind action = spec_.action();
    if (spec_.has_predict() != (action == v1::ACTION_KIND_PREDICT))
      Add("predict",
          spec_.has_predict() ? "is a setting of `action: predict`; remove it" : "must be given for action predict");
    if (spec_.has_sample() != (action == v1::ACTION_KIND_SAMPLE))
      Add("sample",
          spec_.has_sample() ? "is a setting of `action: sample`; remove it" : "must be given for action sample");
    if (IsTraining(spec_)) return;
    const std::string word = Word(*v1::ActionKind_descriptor()->FindValueByNumber(action));
    if (!spec_.has_init_from())
      Add("init_from.checkpoint",
          absl::StrCat("must be given for action ", word, ": the parameters that it works with"));
    if (spec_.init_from().has_optimizer()) Add("init_from.optimizer", "is a setting of `action: train`; remove it");
    if (spec_.has_curriculum()) Add("curriculum", "is a setting of `action: train`; remove it");
    if (!spec_.eval().stop_when().empty()) Add("eval.stop_when", "is a setting of `action: train`; remove it");
    if (Replicas() != 1) Add("resources.replicas", absl::StrCat("must be 1 for action ", word, ", got ", Replicas()));
    if (action == v1::ACTION_KIND_PREDICT) Predict();
    if (action == v1::ACTION_KIND_SAMPLE) Sample();
  }

  void Predict() {
    if (spec_.predict().input().empty()) Add("predict.input", "must be given: a safetensors file on the workers");
    Path("predict.input", spec_.predict().input());
  }

  void Sample() {
    const v1::SampleSpec& sample = spec_.sample();
    if (task_ != v1::TASK_KIND_TEXT)
      Add("action", absl::StrCat("sample is for task text, but task.kind is ", TaskWord(task_)));
    if (sample.prompt().empty()) Add("sample.prompt", "must have at least one byte");
    if (sample.prompt().size() > 100'000) Add("sample.prompt", "must have at most 100000 bytes");
    if (sample.has_length()) Range("sample.length", sample.length(), 1, 1'000'000);
    if (sample.has_temperature()) NotNegative("sample.temperature", sample.temperature());
    if (sample.has_seed()) Range("sample.seed", sample.seed(), 0, int64_t{1} << 53);
  }

  void Halving() {
    if (!spec_.has_halving()) return;
    const v1::HalvingSpec& halving = spec_.halving();
    if (!IsTraining(spec_)) return Add("halving", "is a setting of `action: train`; remove it");
    if (spec_.queue().group().empty()) {
      Add("queue.group",
          "must be given with halving: the trials of a sweep are the jobs of one group. A `sweep:` "
          "section with `halving:` does all of this");
    }
    Range("halving.trials", halving.trials(), 2, 1'000'000);
    if (halving.has_factor()) Range("halving.factor", halving.factor(), 2, 1'000'000);
    const std::vector<std::string> metrics = EvalMetrics(task_);
    if (task_ != v1::TASK_KIND_UNSPECIFIED &&
        std::find(metrics.begin(), metrics.end(), halving.metric()) == metrics.end()) {
      Add("halving.metric", absl::StrCat("must be a figure of task ", TaskWord(task_), ", one of ",
                                         absl::StrJoin(metrics, ", "), ", got \"", halving.metric(), "\""));
    }
    Rungs(halving);
  }

  void Rungs(const v1::HalvingSpec& halving) {
    if (halving.rungs_size() < 1 || halving.rungs_size() > kMostRungs) {
      return Add("halving.rungs", absl::StrCat("must be 1 to ", kMostRungs, " steps, got ", halving.rungs_size()));
    }
    for (int i = 0; i < halving.rungs_size(); ++i) {
      const int64_t before = i == 0 ? 0 : halving.rungs(i - 1);
      if (halving.rungs(i) > before) continue;
      Add(absl::StrCat("halving.rungs[", i, "]"), absl::StrCat("must be above ", before, ", got ", halving.rungs(i)));
    }
    const int64_t last = halving.rungs(halving.rungs_size() - 1);
    if (spec_.train().has_steps() && spec_.train().steps() >= 1 && last >= spec_.train().steps()) {
      Add("train.steps",
          absl::StrCat("must be above the last of halving.rungs, ", last, ", got ", spec_.train().steps()));
    }
  }

  const v1::JobSpec& spec_;
  const v1::TaskKind task_;
  v1::ModelKind model_;
  std::vector<FieldViolation> violations_;
};

void CheckPath(const std::string& field, const std::string& path, std::vector<FieldViolation>* violations) {
  if (path.empty()) return;
  // Not blocking: a pipe must not hold the coordinator.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat info {};
  if (fd < 0) {
    violations->push_back({field, absl::StrCat(path, " cannot be read: ", std::strerror(errno))});
  } else if (fstat(fd, &info) == 0 && !S_ISREG(info.st_mode)) {
    violations->push_back(
        {field, absl::StrCat(path, S_ISDIR(info.st_mode) ? " is a folder, not a file" : " is not a regular file")});
  } else if (info.st_size == 0) {
    violations->push_back({field, absl::StrCat(path, " is empty")});
  }
  if (fd >= 0) close(fd);
}

}  // namespace

std::vector<FieldViolation> Validate(const v1::JobSpec& spec) {
  return Checker(spec).Run();
}

std::vector<FieldViolation> CheckPaths(const v1::JobSpec& spec) {
  std::vector<FieldViolation> violations;
  CheckPath("task.path", spec.task().path(), &violations);
  CheckPath("task.valid_path", spec.task().valid_path(), &violations);
  CheckPath("task.labels_path", spec.task().labels_path(), &violations);
  CheckPath("eval.path", spec.eval().path(), &violations);
  CheckPath("eval.labels_path", spec.eval().labels_path(), &violations);
  CheckPath("predict.input", spec.predict().input(), &violations);
  return violations;
}

absl::StatusOr<absl::Duration> ParseTimeLimit(std::string_view text) {
  absl::Duration limit = absl::InfiniteDuration();
  if (text.empty()) return limit;
  if (absl::ParseDuration(std::string(text), &limit) && limit >= absl::Seconds(1) && limit <= absl::Hours(24 * 3650)) {
    return limit;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("must be a duration of at least 1s, for example 90s or 2h30m, got \"", std::string(text), "\""));
}

absl::StatusOr<absl::Duration> ParseSaveInterval(std::string_view text) {
  absl::Duration interval;
  if (text.empty()) return interval;
  if (absl::ParseDuration(std::string(text), &interval) &&
      (interval == absl::ZeroDuration() || (interval >= absl::Seconds(1) && interval <= absl::Hours(24)))) {
    return interval;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "must be a duration from 1s to 24h, for example 60s or 5m, or 0 for none, got \"", std::string(text), "\""));
}

}  // namespace sab::spec
