// What is done with a trained network, against its engine and its training.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "model/apply/evaluate.h"
#include "model/apply/predict.h"
#include "model/apply/sample.h"
#include "model/collective/collective.h"

namespace sab::model {
namespace {

using ::testing::HasSubstr;

bool GoOn(int64_t, int64_t) {
  return true;
}

ModelConfig Small(Kind kind) {
  ModelConfig config;
  config.kind = kind;
  config.hidden_size = 12;
  config.k_top = 3;
  if (kind == Kind::kLstm) config.k_trunc = 0;
  return config;
}

struct Recorder : TrainObserver {
  void OnStep(const StepReport&) override {}
  void OnCheckpoint(const TrainState&) override {}
  void OnEval(const EvalReport& report) override { evaluations.push_back(report); }
  std::vector<EvalReport> evaluations;
};

TEST(ApplyTest, EvaluationHasTheFiguresOfTheTrainingsLastOne) {
  const auto task = MakeTask({.kind = TaskKind::kCopy, .batch_size = 5, .length = 6});
  const ModelConfig config = Small(Kind::kSab);
  ParameterSet parameters(config, task->shape(), at::kCPU);
  const auto engine = MakeEngine(config, task->shape(), parameters);
  const auto alone = MakeSingleProcessCollective();
  Recorder recorder;
  TrainConfig train;
  train.batch_size = 5;
  train.steps = 3;
  train.eval_lengths = {6, 11};
  train.eval_sequences = 12;
  TrainLoop loop(train, {*task, *engine, parameters, *alone, recorder});
  ASSERT_EQ(loop.Run(), "steps");
  std::vector<EvalReport> reports;
  std::vector<int64_t> done;
  ASSERT_TRUE(Evaluate(
      {.lengths = {6, 11}, .sequences = 12, .batch_size = 5, .step = 3}, *task, *engine, parameters,
      [&](int64_t finished, int64_t total) {
        EXPECT_EQ(total, 24);
        done.push_back(finished);
        return true;
      },
      [&](const EvalReport& report) { reports.push_back(report); }));
  EXPECT_EQ(done, (std::vector<int64_t>{5, 10, 12, 17, 22, 24}));
  ASSERT_EQ(reports.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(reports[i].length, recorder.evaluations[i].length);
    for (size_t k = 0; k < reports[i].figures.size(); ++k)
      EXPECT_EQ(reports[i].figures[k].value, recorder.evaluations[i].figures[k].value);
  }
}

TensorData DataOf(const at::Tensor& inputs, const at::Tensor& lengths) {
  TensorData data;
  data.path = "inputs";
  const bool symbols = inputs.scalar_type() == at::kLong;
  data.inputs =
      ArrayView{symbols ? "I64" : "F32", inputs.sizes().vec(), static_cast<const std::byte*>(inputs.const_data_ptr())};
  if (lengths.defined())
    data.lengths = ArrayView{"I64", lengths.sizes().vec(), static_cast<const std::byte*>(lengths.const_data_ptr())};
  return data;
}

TEST(ApplyTest, APredictionIsTheOutputAtTheRowsLastStepOrAtEveryStep) {
  for (const LossKind loss :
       {LossKind::kCrossEntropyLastStep, LossKind::kMseLastStep, LossKind::kCrossEntropyEveryStep}) {
    const TaskShape shape = {.inputs = 2, .vocabulary = 0, .outputs = 4, .loss = loss};
    const ModelConfig config = Small(Kind::kSab);
    ParameterSet parameters(config, shape, at::kCPU);
    const auto engine = MakeEngine(config, shape, parameters);
    Batch batch;
    batch.inputs = at::linspace(-1, 1, 7 * 9 * 2).view({7, 9, 2}).contiguous();
    batch.lengths = at::tensor({9, 1, 4, 9, 2, 3, 8}, at::kLong);
    const at::Tensor all = engine->Outputs(batch);
    const auto prediction = Predict(DataOf(batch.inputs, batch.lengths), 3, shape, *engine, parameters, GoOn);
    ASSERT_TRUE(prediction.has_value());
    for (int64_t row = 0; row < 7; ++row) {
      const int64_t length = batch.lengths[row].item<int64_t>();
      const at::Tensor mine = prediction->outputs[row];
      if (loss == LossKind::kCrossEntropyEveryStep) {
        EXPECT_TRUE(at::equal(mine.narrow(0, 0, length), all[row].narrow(0, 0, length)));
        EXPECT_EQ(mine.narrow(0, length, 9 - length).abs().sum().item<double>(), 0);
      } else {
        EXPECT_TRUE(at::equal(mine, all[row][length - 1]));
      }
    }
    EXPECT_EQ(prediction->classes.defined(), loss != LossKind::kMseLastStep);
    if (prediction->classes.defined()) EXPECT_TRUE(at::equal(prediction->classes, prediction->outputs.argmax(-1)));
  }
}

TEST(ApplyTest, InputsThatDoNotFitAreRefusedWithWhatTheNetworkReads) {
  const TaskShape shape = {.inputs = 0, .vocabulary = 5, .outputs = 5, .loss = LossKind::kCrossEntropyEveryStep};
  const ModelConfig config = Small(Kind::kLstm);
  ParameterSet parameters(config, shape, at::kCPU);
  const auto engine = MakeEngine(config, shape, parameters);
  const auto refusal = [&](const TensorData& data) -> std::string {
    try {
      (void)Predict(data, 3, shape, *engine, parameters, GoOn);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "accepted";
  };
  const at::Tensor floats = at::zeros({2, 3, 1});
  EXPECT_THAT(refusal(DataOf(floats, {})), HasSubstr("inputs must be I64 (N, T) as this network reads them"));
  const at::Tensor large = at::full({2, 3}, 5, at::kLong);
  EXPECT_THAT(refusal(DataOf(large, {})), HasSubstr("symbols from 0 to 4"));
  const at::Tensor fine = at::zeros({2, 3}, at::kLong), lengths = at::tensor({3, 4}, at::kLong);
  EXPECT_THAT(refusal(DataOf(fine, lengths)), HasSubstr("lengths must be from 1 to 3"));
  EXPECT_THAT(refusal({}), HasSubstr("has no array 'inputs'"));
}

class SampleTest : public ::testing::TestWithParam<Kind> {};

// What the recurrence keeps from step to step is what the engine computes from the whole text.
TEST_P(SampleTest, TheLikeliestSymbolIsTheEnginesAtEveryStep) {
  const TaskShape shape = {.inputs = 0, .vocabulary = 6, .outputs = 6, .loss = LossKind::kCrossEntropyEveryStep};
  ModelConfig config = Small(GetParam());
  config.seed = 3;
  ParameterSet parameters(config, shape, at::kCPU);
  parameters.values().mul_(4);  // scores that differ clearly
  const auto engine = MakeEngine(config, shape, parameters);
  std::vector<int64_t> text = {1, 4, 2};
  const auto written = Sample({.prompt = text, .length = 40, .temperature = 0}, config, shape, parameters, GoOn);
  ASSERT_TRUE(written.has_value());
  for (const int64_t symbol : *written) {
    Batch batch;
    batch.inputs = at::tensor(text, at::kLong).unsqueeze(0);
    const at::Tensor scores = engine->Outputs(batch)[0][static_cast<int64_t>(text.size()) - 1];
    EXPECT_NEAR(scores[symbol].item<double>(), scores.max().item<double>(), 1e-4) << text.size();
    text.push_back(symbol);
  }
}
INSTANTIATE_TEST_SUITE_P(Kinds, SampleTest, ::testing::Values(Kind::kSab, Kind::kLstm, Kind::kAttention));

TEST(ApplyTest, SamplesFollowTheSoftmaxAndTheSeedAlone) {
  const TaskShape shape = {.inputs = 0, .vocabulary = 3, .outputs = 3, .loss = LossKind::kCrossEntropyEveryStep};
  const ModelConfig config = Small(Kind::kLstm);
  ParameterSet parameters(config, shape, at::kCPU);
  parameters.values().zero_();
  at::Tensor bias = parameters.Get("output.bias").value;
  bias.copy_(at::tensor({0.0, 1.0, 2.0}));  // the same scores at every step
  const auto sample = [&](double temperature, uint64_t seed) {
    return *Sample({.prompt = {0}, .length = 3000, .temperature = temperature, .seed = seed}, config, shape, parameters,
                   GoOn);
  };
  for (const double temperature : {0.5, 1.0, 2.0}) {
    const at::Tensor expected = (bias / temperature).softmax(0);
    std::map<int64_t, int> counts;
    for (const int64_t symbol : sample(temperature, 1)) ++counts[symbol];
    for (int64_t symbol = 0; symbol < 3; ++symbol)
      EXPECT_NEAR(counts[symbol] / 3000.0, expected[symbol].item<double>(), 0.04) << temperature;
  }
  EXPECT_EQ(sample(1, 5), sample(1, 5));
  EXPECT_NE(sample(1, 5), sample(1, 6));
}

}  // namespace
}  // namespace sab::model
