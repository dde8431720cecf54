#include "common/spec/halving.h"
#include "common/spec/validate.h"

namespace sab::spec {
namespace {

// SAB_DEFAULT(message, field, value): sets an absent optional field. SAB_DEFAULT_ENUM: the same for an unspecified
// enum.
#define SAB_DEFAULT(message, field, value) \
  if (!(message)->has_##field()) (message)->set_##field(value)
#define SAB_DEFAULT_ENUM(message, field, value) \
  if ((message)->field() == 0) (message)->set_##field(value)

// A one-hot symbol moves its column of W_ih alone, a learning rate at a time, which takes several times the updates.
constexpr int64_t kTextEmbedding = 128;

// From this priority on a job is not preempted unless it says that it may be.
constexpr int64_t kFirmPriority = 25;

bool HasLength(v1::TaskKind kind) {
  return kind == v1::TASK_KIND_COPY || kind == v1::TASK_KIND_ADDING || kind == v1::TASK_KIND_RECALL;
}

void ResolveSab(v1::ModelSpec* model) {
  SAB_DEFAULT(model, k_att, 2);
  SAB_DEFAULT(model, k_top, 5);
  SAB_DEFAULT_ENUM(model, score, v1::SCORE_KIND_MLP);
  SAB_DEFAULT_ENUM(model, recall, v1::RECALL_KIND_TOP);
  SAB_DEFAULT(model, mental_updates, true);
  SAB_DEFAULT(model, detach_scores, false);
  SAB_DEFAULT(model, tie_guard, 0.01);
  SAB_DEFAULT_ENUM(model, dense, v1::DENSE_KIND_SOFTMAX);
  SAB_DEFAULT_ENUM(model, memory_state, v1::MEMORY_STATE_KIND_PROVISIONAL);
  if (!model->has_memory()) return;
  SAB_DEFAULT_ENUM(model->mutable_memory(), policy, v1::MEMORY_POLICY_RECENT);
  if (model->memory().policy() == v1::MEMORY_POLICY_SALIENT) SAB_DEFAULT(model->mutable_memory(), recent, 16);
}

void ResolveModel(const v1::TaskSpec& task, v1::ModelSpec* model) {
  SAB_DEFAULT_ENUM(model, kind, v1::MODEL_KIND_SAB);
  SAB_DEFAULT(model, hidden_size, 128);
  const bool sab = model->kind() == v1::MODEL_KIND_SAB;
  if (model->kind() != v1::MODEL_KIND_ATTENTION) {
    SAB_DEFAULT(model, k_trunc, sab ? 5 : 0);
    SAB_DEFAULT_ENUM(model, truncate, v1::TRUNCATE_KIND_BOTH);
  } else {
    SAB_DEFAULT_ENUM(model, normaliser, v1::NORMALISER_KIND_SOFTMAX);
  }
  if (sab) ResolveSab(model);
  if (model->kind() != v1::MODEL_KIND_LSTM) SAB_DEFAULT_ENUM(model, init, v1::INIT_KIND_SCALED);
  SAB_DEFAULT_ENUM(model, recompute, v1::RECOMPUTE_KIND_AUTO);
  // `engine` stays as it is: unspecified means the best there is where the job runs.
  // Text is bytes. What symbols a tensor holds, if any, only its file says.
  if (task.kind() == v1::TASK_KIND_TEXT) SAB_DEFAULT(model, embedding_size, kTextEmbedding);
  if (task.kind() == v1::TASK_KIND_TENSOR) SAB_DEFAULT(model, embedding_size, 0);
}

void ResolveTask(v1::TaskSpec* task) {
  if (task->kind() == v1::TASK_KIND_COPY) SAB_DEFAULT(task, one_hot, false);
  if (task->kind() == v1::TASK_KIND_TEXT) SAB_DEFAULT(task, window, 100);
}

void ResolveTrain(v1::TrainSpec* train) {
  SAB_DEFAULT(train, batch_size, 64);
  SAB_DEFAULT_ENUM(train, optimizer, v1::OPTIMIZER_KIND_ADAM);
  SAB_DEFAULT(train, learning_rate, 1e-3);
  if (train->optimizer() == v1::OPTIMIZER_KIND_SGD) SAB_DEFAULT(train, momentum, 0);
  SAB_DEFAULT(train, weight_decay, 0);
  SAB_DEFAULT(train, clip_norm, 0);
  SAB_DEFAULT(train, seed, 1);
  SAB_DEFAULT_ENUM(train, precision, v1::PRECISION_KIND_FP32);
  SAB_DEFAULT_ENUM(train->mutable_schedule(), kind, v1::SCHEDULE_KIND_CONSTANT);
  SAB_DEFAULT(train, max_nonfinite_steps, 10);
  SAB_DEFAULT(train, deterministic, false);
  if (train->deterministic()) SAB_DEFAULT(train, shards, kDefaultShards);
}

void ResolveAction(v1::JobSpec* spec) {
  SAB_DEFAULT_ENUM(spec, action, v1::ACTION_KIND_TRAIN);
  if (spec->has_init_from() && IsTraining(*spec)) SAB_DEFAULT(spec->mutable_init_from(), optimizer, false);
  if (!spec->has_sample()) return;
  v1::SampleSpec* sample = spec->mutable_sample();
  SAB_DEFAULT(sample, length, 200);
  SAB_DEFAULT(sample, temperature, 1.0);
  SAB_DEFAULT(sample, seed, 1);
}

}  // namespace

bool IsTraining(const v1::JobSpec& spec) {
  return spec.action() == v1::ACTION_KIND_UNSPECIFIED || spec.action() == v1::ACTION_KIND_TRAIN;
}

void ResolveDefaults(v1::JobSpec* spec) {
  ResolveModel(spec->task(), spec->mutable_model());
  ResolveTask(spec->mutable_task());
  ResolveTrain(spec->mutable_train());
  v1::EvalSpec* eval = spec->mutable_eval();
  SAB_DEFAULT(eval, every, 200);
  if (HasLength(spec->task().kind()) && eval->lengths().empty()) eval->add_lengths(spec->task().length());
  SAB_DEFAULT(eval, sequences, 512);
  if (!eval->final_lengths().empty()) SAB_DEFAULT(eval, final_sequences, eval->sequences());
  v1::CheckpointSpec* checkpoint = spec->mutable_checkpoint();
  SAB_DEFAULT(checkpoint, every, 500);
  SAB_DEFAULT(checkpoint, keep_latest, 3);
  SAB_DEFAULT(checkpoint, keep_best, 1);
  SAB_DEFAULT(checkpoint, initial, false);
  SAB_DEFAULT(checkpoint, keep_every, 0);
  if (checkpoint->within_update().empty()) checkpoint->set_within_update("60s");
  v1::ResourceSpec* resources = spec->mutable_resources();
  SAB_DEFAULT(resources, replicas, 1);
  SAB_DEFAULT_ENUM(resources, device, v1::DEVICE_KIND_AUTO);
  v1::QueueSpec* queue = spec->mutable_queue();
  SAB_DEFAULT(queue, priority, 50);
  SAB_DEFAULT(queue, max_restarts, 3);
  if (queue->name().empty()) queue->set_name("default");
  SAB_DEFAULT(queue, preemptible, queue->priority() < kFirmPriority);
  if (!queue->after().empty()) SAB_DEFAULT_ENUM(queue, after_failure, v1::AFTER_FAILURE_KIND_FAIL);
  ResolveAction(spec);
  if (!spec->has_halving()) return;
  v1::HalvingSpec* halving = spec->mutable_halving();
  SAB_DEFAULT_ENUM(halving, mode, halving->metric() == "accuracy" ? v1::HALVING_MODE_MAX : v1::HALVING_MODE_MIN);
  SAB_DEFAULT(halving, factor, kHalvingFactor);
}

#undef SAB_DEFAULT
#undef SAB_DEFAULT_ENUM

}  // namespace sab::spec
