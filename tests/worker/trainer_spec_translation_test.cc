#include <gtest/gtest.h>

#include "common/spec/parameters.h"
#include "common/spec/spec_file.h"
#include "common/spec/validate.h"
#include "model/parameters.h"
#include "model/tasks/task.h"
#include "worker/trainer/spec_translation.h"

namespace sab::trainer {
namespace {

v1::JobSpec Parse(const char* text) {
  const auto file = spec::ParseSpec(text);
  EXPECT_TRUE(file.ok()) << file.status().message();
  return file.ok() ? file->spec : v1::JobSpec();
}

TEST(SpecTranslationTest, AnAbsentFieldHasTheDefaultOfTheModel) {
  const v1::JobSpec spec = Parse("{name: a, task: {kind: copy, length: 10}, train: {steps: 5}}");
  const model::ModelConfig config = ToModelConfig(spec);
  const model::ModelConfig defaults;
  EXPECT_EQ(config.kind, defaults.kind);
  EXPECT_EQ(config.hidden_size, defaults.hidden_size);
  EXPECT_EQ(config.k_trunc, defaults.k_trunc);
  EXPECT_EQ(config.k_att, defaults.k_att);
  EXPECT_EQ(config.k_top, defaults.k_top);
  EXPECT_EQ(config.mental_updates, defaults.mental_updates);
  EXPECT_EQ(config.detach_scores, defaults.detach_scores);
  EXPECT_EQ(config.tie_guard, defaults.tie_guard);
  EXPECT_EQ(config.dense, defaults.dense);
  EXPECT_EQ(config.memory_state, defaults.memory_state);
  EXPECT_EQ(config.init, defaults.init);
  EXPECT_EQ(config.engine, defaults.engine);
  EXPECT_EQ(config.memory_capacity, 0);
  const model::TrainConfig train = ToTrainConfig(spec);
  EXPECT_EQ(train.steps, 5);
  EXPECT_EQ(train.batch_size, 64);
  EXPECT_EQ(train.learning_rate, 1e-3);
  EXPECT_EQ(train.eval_lengths, std::vector<int64_t>{10});
  EXPECT_EQ(train.eval_every, 200);
  EXPECT_EQ(train.checkpoint_every, 500);
  EXPECT_EQ(train.max_nonfinite_steps, 10);
  EXPECT_FALSE(train.stop_when.has_value());
}

TEST(SpecTranslationTest, ResolvedAndUnresolvedSpecsMeanTheSame) {
  v1::JobSpec spec = Parse("{name: a, model: {kind: lstm}, task: {kind: adding, length: 10}, train: {steps: 5}}");
  const model::ModelConfig before = ToModelConfig(spec);
  spec::ResolveDefaults(&spec);
  const model::ModelConfig after = ToModelConfig(spec);
  EXPECT_EQ(before.kind, model::Kind::kLstm);
  EXPECT_EQ(before.k_trunc, 0);
  EXPECT_EQ(after.k_trunc, before.k_trunc);
  EXPECT_EQ(after.truncate, before.truncate);
}

TEST(SpecTranslationTest, EverySettingArrives) {
  const v1::JobSpec spec = Parse(R"(
name: a
model: {kind: sab, hidden_size: 32, k_trunc: 3, k_att: 4, k_top: 6, score: separable, recall: last, truncate: h, mental_updates: false,
        detach_scores: true, tie_guard: 0.5, dense: raw, memory_state: recalled, memory: {capacity: 20, policy: salient, recent: 7},
        recompute: on, cuda_graphs: off, engine: reference, init: paper, init_std: 0.3}
task: {kind: copy, length: 12, one_hot: true}
train: {batch_size: 8, steps: 9, optimizer: sgd, learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01, clip_norm: 2, seed: 77, precision: bf16,
        schedule: {kind: cosine, warmup_steps: 3, final_factor: 0.2}, max_nonfinite_steps: 4, deterministic: true, shards: 8}
eval: {every: 6, lengths: [12, 24], sequences: 33, stop_when: "accuracy >= 0.75", final_lengths: [48], final_sequences: 5}
checkpoint: {every: 7, initial: true}
curriculum: {lengths: [3, 12], advance_when: "loss < 0.5", vary: true}
)");
  const model::ModelConfig m = ToModelConfig(spec);
  EXPECT_EQ(m.hidden_size, 32);
  EXPECT_EQ(m.k_trunc, 3);
  EXPECT_EQ(m.k_att, 4);
  EXPECT_EQ(m.k_top, 6);
  EXPECT_EQ(m.score, model::Score::kSeparable);
  EXPECT_EQ(m.recall, model::Recall::kLast);
  EXPECT_EQ(m.truncate, model::Truncate::kH);
  EXPECT_FALSE(m.mental_updates);
  EXPECT_TRUE(m.detach_scores);
  EXPECT_EQ(m.tie_guard, 0.5);
  EXPECT_EQ(m.dense, model::Dense::kRaw);
  EXPECT_EQ(m.memory_state, model::MemoryState::kRecalled);
  EXPECT_EQ(m.memory_capacity, 20);
  EXPECT_EQ(m.memory_policy, model::MemoryPolicy::kSalient);
  EXPECT_EQ(m.memory_recent, 7);
  EXPECT_EQ(m.recompute, model::Recompute::kOn);
  EXPECT_EQ(m.cuda_graphs, model::CudaGraphs::kOff);
  EXPECT_EQ(m.engine, model::EngineKind::kReference);
  EXPECT_EQ(m.init, model::Init::kPaper);
  EXPECT_EQ(m.init_std, 0.3);
  EXPECT_EQ(m.precision, model::Precision::kBf16);
  EXPECT_EQ(m.seed, 77u);
  const model::TaskConfig t = ToTaskConfig(spec);
  EXPECT_EQ(t.kind, model::TaskKind::kCopy);
  EXPECT_EQ(t.length, 12);
  EXPECT_TRUE(t.one_hot);
  EXPECT_EQ(t.seed, 77u);
  EXPECT_EQ(t.batch_size, 8);
  const model::TrainConfig c = ToTrainConfig(spec);
  EXPECT_EQ(c.optimizer.kind, model::OptimizerKind::kSgd);
  EXPECT_EQ(c.optimizer.momentum, 0.9);
  EXPECT_EQ(c.optimizer.weight_decay, 0.01);
  EXPECT_EQ(c.clip_norm, 2);
  EXPECT_EQ(c.schedule.kind, model::ScheduleKind::kCosine);
  EXPECT_EQ(c.schedule.warmup_steps, 3);
  EXPECT_EQ(c.schedule.final_factor, 0.2);
  EXPECT_EQ(c.max_nonfinite_steps, 4);
  EXPECT_EQ(c.shards, 8);
  EXPECT_EQ(c.eval_every, 6);
  EXPECT_EQ(c.eval_lengths, (std::vector<int64_t>{12, 24}));
  EXPECT_EQ(c.eval_sequences, 33);
  EXPECT_EQ(c.final_lengths, std::vector<int64_t>{48});
  EXPECT_EQ(c.final_sequences, 5);
  EXPECT_EQ(c.stop_when->Text(), "accuracy >= 0.75");
  EXPECT_EQ(c.checkpoint_every, 7);
  EXPECT_TRUE(c.checkpoint_initial);
  EXPECT_EQ(c.curriculum.lengths, (std::vector<int64_t>{3, 12}));
  EXPECT_EQ(c.curriculum.advance_when.Text(), "loss < 0.5");
  EXPECT_TRUE(c.curriculum.vary);
  EXPECT_EQ(c.curriculum.seed, static_cast<uint64_t>(spec.train().seed()));
}

TEST(SpecTranslationTest, TheSpecKnowsTheParametersOfItsNetwork) {
  for (const char* model : {"{kind: sab, hidden_size: 6}", "{kind: sab, hidden_size: 6, score: separable}",
                            "{kind: lstm, hidden_size: 5}", "{kind: attention, hidden_size: 4}"}) {
    for (const char* task : {"{kind: copy, length: 10}", "{kind: copy, length: 10, one_hot: true}",
                             "{kind: adding, length: 10}", "{kind: recall, length: 10}"}) {
      const std::string text = std::string("{name: a, model: ") + model + ", task: " + task + ", train: {steps: 5}}";
      const v1::JobSpec spec = Parse(text.c_str());
      const auto made = model::MakeTask(ToTaskConfig(spec));
      const model::ParameterSet parameters(ToModelConfig(spec), made->shape(), at::kCPU);
      const std::vector<spec::ParameterShape> expected = spec::ParametersOf(spec);
      ASSERT_EQ(parameters.all().size(), expected.size()) << text;
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(parameters.all()[i].name, expected[i].name) << text;
        EXPECT_EQ(parameters.all()[i].value.sizes().vec(), expected[i].shape) << text << expected[i].name;
      }
    }
  }
}

}  // namespace
}  // namespace sab::trainer
