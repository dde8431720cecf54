#include "common/spec/model_config.h"

#include "common/spec/validate.h"

namespace sab::spec {
namespace {

model::Kind ToKind(v1::ModelKind kind) {
  if (kind == v1::MODEL_KIND_LSTM) return model::Kind::kLstm;
  return kind == v1::MODEL_KIND_ATTENTION ? model::Kind::kAttention : model::Kind::kSab;
}

model::Recall ToRecall(v1::RecallKind recall) {
  switch (recall) {
    case v1::RECALL_KIND_ALL:
      return model::Recall::kAll;
    case v1::RECALL_KIND_RANDOM:
      return model::Recall::kRandom;
    case v1::RECALL_KIND_LAST:
      return model::Recall::kLast;
    default:
      return model::Recall::kTop;
  }
}

model::Recompute ToRecompute(v1::RecomputeKind recompute) {
  if (recompute == v1::RECOMPUTE_KIND_ON) return model::Recompute::kOn;
  return recompute == v1::RECOMPUTE_KIND_OFF ? model::Recompute::kOff : model::Recompute::kAuto;
}

model::EngineKind ToEngine(v1::EngineKind engine) {
  if (engine == v1::ENGINE_KIND_FAST) return model::EngineKind::kFast;
  return engine == v1::ENGINE_KIND_REFERENCE ? model::EngineKind::kReference : model::EngineKind::kAuto;
}

model::Precision ToPrecision(v1::PrecisionKind precision) {
  if (precision == v1::PRECISION_KIND_TF32) return model::Precision::kTf32;
  return precision == v1::PRECISION_KIND_BF16 ? model::Precision::kBf16 : model::Precision::kFp32;
}

// Settings of kind sab alone.
void SetMemory(const v1::ModelSpec& from, model::ModelConfig* to) {
  to->k_att = from.k_att();
  to->k_top = from.k_top();
  to->score = from.score() == v1::SCORE_KIND_SEPARABLE ? model::Score::kSeparable : model::Score::kMlp;
  to->recall = ToRecall(from.recall());
  to->mental_updates = from.mental_updates();
  to->detach_scores = from.detach_scores();
  to->tie_guard = from.tie_guard();
  to->dense = from.dense() == v1::DENSE_KIND_RAW ? model::Dense::kRaw : model::Dense::kSoftmax;
  to->memory_state = from.memory_state() == v1::MEMORY_STATE_KIND_RECALLED ? model::MemoryState::kRecalled
                                                                           : model::MemoryState::kProvisional;
  to->memory_capacity = from.memory().capacity();
  to->memory_policy = from.memory().policy() == v1::MEMORY_POLICY_SALIENT ? model::MemoryPolicy::kSalient
                                                                          : model::MemoryPolicy::kRecent;
  if (from.memory().has_recent()) to->memory_recent = from.memory().recent();
}

}  // namespace

model::ModelConfig ToModelConfig(const v1::JobSpec& given) {
  v1::JobSpec spec = given;
  ResolveDefaults(&spec);
  const v1::ModelSpec& from = spec.model();
  model::ModelConfig to;
  to.kind = ToKind(from.kind());
  to.hidden_size = from.hidden_size();
  to.k_trunc = from.k_trunc();
  to.truncate = from.truncate() == v1::TRUNCATE_KIND_H ? model::Truncate::kH : model::Truncate::kBoth;
  if (to.kind == model::Kind::kSab) SetMemory(from, &to);
  to.normaliser =
      from.normaliser() == v1::NORMALISER_KIND_NONE ? model::Normaliser::kNone : model::Normaliser::kSoftmax;
  to.recompute = ToRecompute(from.recompute());
  if (from.cuda_graphs() == v1::CUDA_GRAPHS_KIND_OFF) to.cuda_graphs = model::CudaGraphs::kOff;
  to.engine = ToEngine(from.engine());
  to.init = from.init() == v1::INIT_KIND_PAPER ? model::Init::kPaper : model::Init::kScaled;
  if (from.has_init_std()) to.init_std = from.init_std();
  to.embedding_size = from.embedding_size();
  to.precision = ToPrecision(spec.train().precision());
  to.seed = static_cast<uint64_t>(spec.train().seed());
  return to;
}

std::optional<model::TaskShape> ShapeOf(const v1::TaskSpec& task) {
  switch (task.kind()) {
    case v1::TASK_KIND_COPY:
      return model::TaskShape{task.one_hot() ? 10 : 1, 0, 10, model::LossKind::kCrossEntropyEveryStep};
    case v1::TASK_KIND_ADDING:
      return model::TaskShape{2, 0, 1, model::LossKind::kMseLastStep};
    case v1::TASK_KIND_RECALL:
      return model::TaskShape{17, 0, 8, model::LossKind::kCrossEntropyLastStep};
    default:
      return std::nullopt;
  }
}

}  // namespace sab::spec
