#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "model/fast/fast_engine.h"
#include "model/reference/reference_engine.h"
#include "tests/model/fast_cases.h"

namespace sab::model {
namespace {

using Change = std::function<void(FastCase&)>;

FastCase Case(const std::string& name, const Change& change) {
  FastCase c;
  c.name = name;
  c.config.hidden_size = 12;
  c.config.k_trunc = 5;
  c.config.precision = Precision::kFp64;
  c.config.tie_guard = 1e-3;
  c.shape.inputs = 2;
  c.shape.outputs = 5;
  change(c);
  return c;
}

std::vector<FastCase> SabGrid() {
  std::vector<FastCase> cases;
  for (int64_t k_trunc : {0, 1, 5, 40})
    for (int64_t k_att : {1, 2, 5})
      for (int64_t k_top : {1, 5, 10, 30})
        for (int form = 0; form < 4; ++form) {
          const std::string name = "trunc" + std::to_string(k_trunc) + "_att" + std::to_string(k_att) + "_top" +
                                   std::to_string(k_top) + "_form" + std::to_string(form);
          cases.push_back(Case(name, [&](FastCase& c) {
            c.config.k_trunc = k_trunc;
            c.config.k_att = k_att;
            c.config.k_top = k_top;
            c.config.dense = form % 2 == 0 ? Dense::kSoftmax : Dense::kRaw;
            c.config.memory_state = form < 2 ? MemoryState::kProvisional : MemoryState::kRecalled;
            c.weight_scale = 1.5;
          }));
        }
  return cases;
}

std::vector<FastCase> Settings() {
  const auto make = [](const char* name, const Change& change) { return Case(name, change); };
  std::vector<FastCase> cases = {
      make("one_step", [](FastCase& c) { c.steps = 1; }),
      make("one_row", [](FastCase& c) { c.rows = 1; }),
      make("below_k_att", [](FastCase& c) { c.steps = 4, c.config.k_att = 5; }),
      make("several_blocks", [](FastCase& c) { c.rows = 37, c.steps = 40; }),
      make("several_chunks", [](FastCase& c) { c.rows = 17, c.steps = 150, c.config.k_att = 3; }),
      make("several_chunks_recomputed", [](FastCase& c) { c.rows = 17, c.steps = 150, c.config.recompute = Recompute::kOn; }),
      make("recomputed_without_truncation",
           [](FastCase& c) { c.rows = 16, c.steps = 97, c.config.recompute = Recompute::kOn, c.config.k_trunc = 0; }),
      make("hidden_16", [](FastCase& c) { c.config.hidden_size = 16; }),
      make("hidden_33", [](FastCase& c) { c.config.hidden_size = 33; }),
      make("hidden_1", [](FastCase& c) { c.config.hidden_size = 1; }),
      make("many_memories", [](FastCase& c) { c.steps = 300, c.config.k_att = 1, c.config.hidden_size = 20; }),
      make("large_weights", [](FastCase& c) { c.weight_scale = 40, c.steps = 60; }),
      make("paper_init", [](FastCase& c) { c.config.init = Init::kPaper; }),
      make("truncate_h", [](FastCase& c) { c.config.truncate = Truncate::kH; }),
      make("no_mental_updates", [](FastCase& c) { c.config.mental_updates = false; }),
      make("no_mental_updates_recalled",
           [](FastCase& c) { c.config.mental_updates = false, c.config.memory_state = MemoryState::kRecalled; }),
      make("detach_scores", [](FastCase& c) { c.config.detach_scores = true; }),
      make("recall_last", [](FastCase& c) { c.config.recall = Recall::kLast; }),
      make("recall_last_raw", [](FastCase& c) { c.config.recall = Recall::kLast, c.config.dense = Dense::kRaw; }),
      make("guard_everything", [](FastCase& c) { c.config.tie_guard = 1e3; }),
      make("guard_some", [](FastCase& c) { c.config.tie_guard = 0.05, c.rows = 9, c.ragged = true; }),
      make("no_guard", [](FastCase& c) { c.config.tie_guard = 0; }),
      make("symbols", [](FastCase& c) { c.shape.inputs = 0, c.shape.vocabulary = 7; }),
      make("embedding", [](FastCase& c) { c.shape.inputs = 0, c.shape.vocabulary = 7, c.config.embedding_size = 3; }),
      make("wide_input", [](FastCase& c) { c.shape.inputs = 19; }),
      make("wide_output", [](FastCase& c) { c.shape.outputs = 35; }),
      make("ragged", [](FastCase& c) { c.ragged = true, c.rows = 20, c.steps = 50; }),
      make("class_at_last_step",
           [](FastCase& c) { c.ragged = true, c.rows = 5, c.steps = 70, c.shape.loss = LossKind::kCrossEntropyLastStep; }),
      make("number_at_last_step", [](FastCase& c) { c.rows = 5, c.steps = 70, c.shape.loss = LossKind::kMseLastStep; }),
      make("bounded_recent", [](FastCase& c) { c.config.memory_capacity = 8, c.steps = 60; }),
      make("bounded_recent_last",
           [](FastCase& c) { c.config.memory_capacity = 8, c.steps = 60, c.config.recall = Recall::kLast; }),
      make("bounded_below_k_top", [](FastCase& c) { c.config.memory_capacity = 4, c.steps = 40; }),
      make("bounded_salient",
           [](FastCase& c) {
             c.config.memory_capacity = 9, c.config.memory_policy = MemoryPolicy::kSalient, c.config.memory_recent = 3;
             c.steps = 90;
           }),
      make("bounded_salient_none_recent",
           [](FastCase& c) {
             c.config.memory_capacity = 9, c.config.memory_policy = MemoryPolicy::kSalient, c.config.memory_recent = 0;
             c.steps = 90, c.config.recompute = Recompute::kOn;
           }),
      make("lstm", [](FastCase& c) { c.config.kind = Kind::kLstm, c.config.k_trunc = 0; }),
      make("lstm_truncated", [](FastCase& c) { c.config.kind = Kind::kLstm, c.config.k_trunc = 5, c.steps = 90, c.rows = 30; }),
      make("lstm_truncate_h",
           [](FastCase& c) { c.config.kind = Kind::kLstm, c.config.k_trunc = 5, c.config.truncate = Truncate::kH; }),
      make("lstm_recomputed",
           [](FastCase& c) {
             c.config.kind = Kind::kLstm, c.config.k_trunc = 0, c.config.recompute = Recompute::kOn, c.steps = 180, c.rows = 16;
           }),
  };
  const size_t mlp = cases.size();
  for (size_t i = 0; i < mlp; ++i) {
    if (cases[i].config.kind != Kind::kSab || cases[i].config.memory_capacity > 0) continue;
    cases.push_back(cases[i]);
    cases.back().name += "_separable";
    cases.back().config.score = Score::kSeparable;
    if (i % 2 == 0) cases.back().config.dense = Dense::kRaw;
  }
  return cases;
}

std::string CaseName(const testing::TestParamInfo<FastCase>& info) { return info.param.name; }

void ExpectSameSums(const PassSums& actual, const PassSums& expected, double tolerance) {
  EXPECT_NEAR(actual.loss_sum, expected.loss_sum, tolerance * std::abs(expected.loss_sum));
  EXPECT_EQ(actual.loss_count, expected.loss_count);
  EXPECT_NEAR(actual.scored_loss_sum, expected.scored_loss_sum, tolerance * std::abs(expected.loss_sum));
  EXPECT_EQ(actual.scored_count, expected.scored_count);
  EXPECT_EQ(actual.correct_count, expected.correct_count);
  EXPECT_EQ(actual.guarded_count, expected.guarded_count);
  EXPECT_NEAR(actual.max_hidden_norm, expected.max_hidden_norm, tolerance * expected.max_hidden_norm);
}

class FastEngineInDouble : public testing::TestWithParam<FastCase> {};

TEST_P(FastEngineInDouble, AgreesWithTheReferenceToRounding) {
  const FastCase& c = GetParam();
  ParameterSet parameters = MakeParameters(c);
  const Batch batch = MakeBatch(c);
  const std::unique_ptr<Engine> reference = MakeReferenceEngine(c.config, c.shape, parameters);
  const std::unique_ptr<Engine> fast = MakeFastEngine(c.config, c.shape, parameters);
  const Outcome expected = RunStep(*reference, parameters, batch);
  const Outcome actual = RunStep(*fast, parameters, batch);
  std::string where;
  EXPECT_LE(WorstRelativeError(parameters, actual.gradients, expected.gradients, &where), 1e-10) << where;
  ExpectSameSums(actual.sums, expected.sums, 1e-10);
  ExpectSameSums(fast->Evaluate(batch), reference->Evaluate(batch), 1e-10);
  const at::Tensor y = reference->Outputs(batch);
  EXPECT_LE((fast->Outputs(batch) - y).abs().max().item<double>(), 1e-10 * y.abs().max().item<double>());
}

INSTANTIATE_TEST_SUITE_P(Grid, FastEngineInDouble, testing::ValuesIn(SabGrid()), CaseName);
INSTANTIATE_TEST_SUITE_P(Settings, FastEngineInDouble, testing::ValuesIn(Settings()), CaseName);

}  // namespace
}  // namespace sab::model
