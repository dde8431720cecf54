#include "tests/model/fast_cases.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <utility>

#include "model/random.h"
#include "model/reference/reference_engine.h"

namespace sab::model {

std::ostream& operator<<(std::ostream& out, const FastCase& c) {
  return out << c.name;
}

Batch MakeBatch(const FastCase& c) {
  Random random(7, 11);
  Batch batch;
  const auto longs = [&](at::IntArrayRef sizes, int64_t low, int64_t high) {
    at::Tensor t = at::empty(sizes, at::kLong);
    for (int64_t i = 0; i < t.numel(); ++i) {
      t.mutable_data_ptr<int64_t>()[i] = low + static_cast<int64_t>(random.Below(static_cast<uint64_t>(high - low)));
    }
    return t;
  };
  const auto floats = [&](at::IntArrayRef sizes) {
    at::Tensor t = at::empty(sizes, at::kFloat);
    for (int64_t i = 0; i < t.numel(); ++i) t.mutable_data_ptr<float>()[i] = static_cast<float>(random.Normal());
    return t;
  };
  if (c.shape.vocabulary > 0) {
    batch.inputs = longs({c.rows, c.steps}, 0, c.shape.vocabulary);
  } else {
    batch.inputs = floats({c.rows, c.steps, c.shape.inputs});
    for (int64_t t = c.constant_from + 1; c.constant_from > 0 && t < c.steps; ++t) {
      batch.inputs.select(1, t).copy_(batch.inputs.select(1, c.constant_from));
    }
  }
  if (c.shape.loss == LossKind::kMseLastStep) {
    batch.targets = floats({c.rows, c.shape.outputs});
  } else if (c.shape.loss == LossKind::kCrossEntropyLastStep) {
    batch.targets = longs({c.rows}, 0, c.shape.outputs);
  } else {
    batch.targets = longs({c.rows, c.steps}, 0, c.shape.outputs);
  }
  if (c.ragged) batch.lengths = longs({c.rows}, 1, c.steps + 1);
  batch.metric_from = c.steps / 2;
  return batch;
}

ParameterSet MakeParameters(const FastCase& c) {
  ParameterSet parameters(c.config, c.shape, at::kCPU);
  parameters.values().mul_(c.weight_scale);
  if (c.forgets) {
    parameters.Get("cell.weight_hh").value.zero_();
    parameters.Get("cell.bias_ih").value.narrow(0, c.config.hidden_size, c.config.hidden_size).fill_(-80);
  }
  return parameters;
}

Outcome RunStep(Engine& engine, ParameterSet& parameters, const Batch& batch) {
  parameters.gradients().zero_();
  Outcome outcome;
  outcome.sums = engine.ForwardBackward(batch, 1.0 / static_cast<double>(batch.rows() * batch.steps()));
  outcome.gradients = parameters.gradients().clone();
  return outcome;
}

double WorstRelativeError(const ParameterSet& parameters, const at::Tensor& actual, const at::Tensor& expected,
                          std::string* where) {
  double worst = 0;
  int64_t offset = 0;
  for (const Parameter& p : parameters.all()) {
    const int64_t count = p.value.numel();
    const at::Tensor a = actual.narrow(0, offset, count).to(at::kDouble);
    const at::Tensor e = expected.narrow(0, offset, count).to(at::kDouble);
    offset += count;
    const double largest = e.abs().max().item<double>();
    const double error = (a - e).abs().max().item<double>() / (largest > 0 ? largest : 1.0);
    if (!(error <= worst)) {
      worst = error;
      *where = p.name + " (largest element " + std::to_string(largest) + ")";
    }
  }
  return worst;
}

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
      make("several_chunks_recomputed",
           [](FastCase& c) { c.rows = 17, c.steps = 150, c.config.recompute = Recompute::kOn; }),
      make("recomputed_without_truncation",
           [](FastCase& c) { c.rows = 16, c.steps = 97, c.config.recompute = Recompute::kOn, c.config.k_trunc = 0; }),
      make("hidden_16", [](FastCase& c) { c.config.hidden_size = 16; }),
      make("hidden_33", [](FastCase& c) { c.config.hidden_size = 33; }),
      make("hidden_300", [](FastCase& c) { c.config.hidden_size = 300, c.rows = 40, c.steps = 30; }),
      make("hidden_301_and_many_rows", [](FastCase& c) { c.config.hidden_size = 301, c.rows = 70, c.steps = 12; }),
      make("hidden_1", [](FastCase& c) { c.config.hidden_size = 1; }),
      make("many_memories", [](FastCase& c) { c.steps = 300, c.config.k_att = 1, c.config.hidden_size = 20; }),
      make("large_scores", [](FastCase& c) { c.config.init_std = 10, c.steps = 60; }),
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
           [](FastCase& c) {
             c.ragged = true, c.rows = 5, c.steps = 70, c.shape.loss = LossKind::kCrossEntropyLastStep;
           }),
      make("class_at_last_step_far_away",
           [](FastCase& c) {
             c.ragged = true, c.rows = 16, c.steps = 200, c.shape.loss = LossKind::kCrossEntropyLastStep;
           }),
      make("class_at_last_step_far_away_recomputed",
           [](FastCase& c) {
             c.rows = 18, c.steps = 200, c.shape.loss = LossKind::kCrossEntropyLastStep,
             c.config.recompute = Recompute::kOn;
             c.config.memory_state = MemoryState::kRecalled;
           }),
      make("truncate_h_class_at_last_step",
           [](FastCase& c) {
             c.steps = 100, c.shape.loss = LossKind::kCrossEntropyLastStep, c.config.truncate = Truncate::kH;
           }),
      make("number_at_last_step", [](FastCase& c) { c.rows = 5, c.steps = 70, c.shape.loss = LossKind::kMseLastStep; }),
      make("memories_alike",
           [](FastCase& c) { c.config.hidden_size = 24, c.steps = 300, c.config.k_att = 1, c.constant_from = 12; }),
      make("memories_alike_many_recalled",
           [](FastCase& c) {
             c.config.hidden_size = 24, c.steps = 200, c.config.k_att = 1, c.config.k_top = 20, c.constant_from = 30;
           }),
      make("memories_equal",
           [](FastCase& c) {
             c.forgets = true, c.steps = 150, c.config.k_att = 1, c.config.tie_guard = 0, c.constant_from = 9;
           }),
      make("memories_equal_many_recalled",
           [](FastCase& c) {
             c.forgets = true, c.steps = 150, c.config.k_att = 1, c.config.k_top = 20, c.constant_from = 40;
           }),
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
      make("bounded_ragged_guarded",
           [](FastCase& c) {
             c.config.memory_capacity = 8, c.steps = 130, c.rows = 9, c.ragged = true, c.config.tie_guard = 0.05;
           }),
      make("bounded_class_at_last_step",
           [](FastCase& c) {
             c.config.memory_capacity = 8, c.steps = 260, c.rows = 9, c.config.k_att = 3,
             c.config.recompute = Recompute::kOn, c.shape.loss = LossKind::kCrossEntropyLastStep;
           }),
      make("bounded_recalled_detached",
           [](FastCase& c) {
             c.config.memory_capacity = 7, c.steps = 90, c.config.k_att = 1,
             c.config.memory_state = MemoryState::kRecalled, c.config.detach_scores = true;
           }),
      make("lstm", [](FastCase& c) { c.config.kind = Kind::kLstm, c.config.k_trunc = 0; }),
      make("lstm_truncated",
           [](FastCase& c) { c.config.kind = Kind::kLstm, c.config.k_trunc = 5, c.steps = 90, c.rows = 30; }),
      make("lstm_truncate_h",
           [](FastCase& c) { c.config.kind = Kind::kLstm, c.config.k_trunc = 5, c.config.truncate = Truncate::kH; }),
      make("lstm_recomputed",
           [](FastCase& c) {
             c.config.kind = Kind::kLstm, c.config.k_trunc = 0, c.config.recompute = Recompute::kOn, c.steps = 180,
             c.rows = 16;
           }),
  };
  const auto attention = [&](const char* name, const Change& change) {
    cases.push_back(make(name, [&](FastCase& c) {
      c.config.kind = Kind::kAttention;
      c.config.k_trunc = 0;
      change(c);
    }));
  };
  attention("attention", [](FastCase& c) { c.steps = 70; });
  attention("attention_one_step", [](FastCase& c) { c.steps = 1; });
  attention("attention_raw", [](FastCase& c) { c.config.normaliser = Normaliser::kNone, c.steps = 30; });
  attention("attention_large_scores", [](FastCase& c) { c.config.init_std = 10, c.steps = 40; });
  attention("attention_wide",
            [](FastCase& c) { c.config.hidden_size = 50, c.steps = 83, c.rows = 18, c.ragged = true; });
  attention("attention_recomputed",
            [](FastCase& c) { c.steps = 150, c.rows = 16, c.config.recompute = Recompute::kOn; });
  attention("attention_number_at_last_step",
            [](FastCase& c) { c.steps = 100, c.rows = 6, c.ragged = true, c.shape.loss = LossKind::kMseLastStep; });
  cases.push_back(make("hidden_128", [](FastCase& c) { c.config.hidden_size = 128, c.steps = 120; }));
  attention("attention_hidden_128", [](FastCase& c) { c.config.hidden_size = 128, c.steps = 60; });
  const size_t mlp = cases.size();
  for (size_t i = 0; i < mlp; ++i) {
    if (cases[i].config.kind != Kind::kSab) continue;
    cases.push_back(cases[i]);
    cases.back().name += "_separable";
    cases.back().config.score = Score::kSeparable;
    if (i % 2 == 0) cases.back().config.dense = Dense::kRaw;
  }
  return cases;
}

// Every way to recall with every form of memory and both scores, long enough for several chunks and evictions.
std::vector<FastCase> Controls() {
  std::vector<FastCase> cases;
  for (const auto& [recall, recall_name] :
       {std::pair{Recall::kAll, "all"}, {Recall::kRandom, "random"}, {Recall::kLast, "last"}, {Recall::kTop, "top"}})
    for (int form = 0; form < 12; ++form) {
      const int memory = form % 3;
      const bool separable = form / 3 % 2 == 1, raw = form / 6 == 1;
      const std::string name = std::string(recall_name) +
                               (memory == 0   ? "_unbounded"
                                : memory == 1 ? "_recent"
                                              : "_salient") +
                               (separable ? "_separable" : "_mlp") + (raw ? "_raw" : "_softmax");
      cases.push_back(Case(name, [&](FastCase& c) {
        c.config.recall = recall;
        c.config.score = separable ? Score::kSeparable : Score::kMlp;
        c.config.dense = raw ? Dense::kRaw : Dense::kSoftmax;
        c.config.memory_capacity = memory == 0 ? 0 : 11;
        c.config.memory_policy = memory == 2 ? MemoryPolicy::kSalient : MemoryPolicy::kRecent;
        c.config.memory_recent = 3;
        c.config.k_att = 1 + form % 2;
        c.config.k_top = 3;
        c.config.recompute = raw ? Recompute::kOn : Recompute::kOff;
        c.config.memory_state = raw ? MemoryState::kProvisional : MemoryState::kRecalled;
        if (raw && recall != Recall::kTop) c.weight_scale = 0.5;  // raw weights of many memories add up
        c.config.hidden_size = 20;
        c.steps = 90;
        c.rows = 13;
        c.ragged = form % 4 == 1;
      }));
    }
  return cases;
}

std::string CaseName(const testing::TestParamInfo<FastCase>& info) {
  return info.param.name;
}

void ExpectSameSums(const PassSums& actual, const PassSums& expected, double tolerance) {
  EXPECT_NEAR(actual.loss_sum, expected.loss_sum, tolerance * std::abs(expected.loss_sum));
  EXPECT_EQ(actual.loss_count, expected.loss_count);
  EXPECT_NEAR(actual.scored_loss_sum, expected.scored_loss_sum, tolerance * std::abs(expected.loss_sum));
  EXPECT_EQ(actual.scored_count, expected.scored_count);
  EXPECT_EQ(actual.correct_count, expected.correct_count);
  EXPECT_EQ(actual.guarded_count, expected.guarded_count);
  EXPECT_NEAR(actual.max_hidden_norm, expected.max_hidden_norm, tolerance * expected.max_hidden_norm);
}

void ExpectAgreementInDouble(const FastCase& c, const EngineMaker& make, bool passes) {
  ParameterSet parameters = MakeParameters(c);
  const Batch batch = MakeBatch(c);
  const std::unique_ptr<Engine> reference = MakeReferenceEngine(c.config, c.shape, parameters);
  const std::unique_ptr<Engine> engine = make(c, parameters);
  const Outcome expected = RunStep(*reference, parameters, batch);
  const Outcome actual = RunStep(*engine, parameters, batch);
  // With one recall its weight is r / (r + 1e-7): what is left of the scores' gradient is the difference of nearly
  // equal numbers.
  const double tolerance = c.config.k_top == 1 ? 1e-8 : 1e-10;
  std::string where;
  EXPECT_LE(WorstRelativeError(parameters, actual.gradients, expected.gradients, &where), tolerance) << where;
  ExpectSameSums(actual.sums, expected.sums, 1e-10);
  if (!passes) return;
  ExpectSameSums(engine->Evaluate(batch), reference->Evaluate(batch), 1e-10);
  const at::Tensor y = reference->Outputs(batch);
  EXPECT_LE((engine->Outputs(batch) - y).abs().max().item<double>(), 1e-10 * y.abs().max().item<double>());
}

FloatErrors ErrorsInFloat(const FastCase& exact, const EngineMaker& make) {
  FastCase rounded = exact;
  rounded.config.precision = Precision::kFp32;
  const Batch batch = MakeBatch(exact);
  ParameterSet in_float = MakeParameters(rounded), in_double = MakeParameters(exact);
  in_double.values().copy_(in_float.values());
  const at::Tensor truth =
      RunStep(*MakeReferenceEngine(exact.config, exact.shape, in_double), in_double, batch).gradients;
  const Outcome reference = RunStep(*MakeReferenceEngine(rounded.config, rounded.shape, in_float), in_float, batch);
  const Outcome engine = RunStep(*make(rounded, in_float), in_float, batch);
  EXPECT_NEAR(engine.sums.loss_sum, reference.sums.loss_sum, 1e-5 * std::abs(reference.sums.loss_sum));
  FloatErrors errors;
  errors.reference = WorstRelativeError(in_float, reference.gradients, truth, &errors.where);
  errors.engine = WorstRelativeError(in_float, engine.gradients, truth, &errors.where);
  return errors;
}

}  // namespace sab::model
