#include "model/parameters.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "model/random.h"

namespace sab::model {
namespace {

std::vector<std::pair<std::string, std::vector<int64_t>>> Names(const ParameterSet& set) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> names;
  for (const Parameter& parameter : set.all()) names.emplace_back(parameter.name, parameter.value.sizes().vec());
  return names;
}

double StandardDeviation(const Parameter& parameter) {
  return parameter.value.std().item<double>();
}

TEST(ParameterSetTest, NamesAndShapesOfSabWithMlpScores) {
  ModelConfig config{.hidden_size = 3};
  ParameterSet set(config, {.inputs = 2, .outputs = 5}, at::kCPU);
  const std::vector<std::pair<std::string, std::vector<int64_t>>> expected = {
      {"cell.weight_ih", {12, 2}},     {"cell.weight_hh", {12, 3}},         {"cell.bias_ih", {12}},
      {"cell.bias_hh", {12}},          {"attention.memory.weight", {3, 3}}, {"attention.query.weight", {3, 3}},
      {"attention.score.weight", {3}}, {"output.weight", {5, 6}},           {"output.bias", {5}}};
  EXPECT_EQ(Names(set), expected);
  EXPECT_EQ(set.count(), 24 + 36 + 12 + 12 + 9 + 9 + 3 + 30 + 5);
}

TEST(ParameterSetTest, NamesAndShapesOfSabWithSeparableScoresAndEmbeddedSymbols) {
  ModelConfig config{.hidden_size = 3, .score = Score::kSeparable, .embedding_size = 4};
  ParameterSet set(config, {.inputs = 0, .vocabulary = 7, .outputs = 7}, at::kCPU);
  EXPECT_EQ(set.Get("attention.query_score.weight").value.sizes().vec(), (std::vector<int64_t>{3}));
  EXPECT_EQ(set.Get("attention.memory_score.weight").value.sizes().vec(), (std::vector<int64_t>{3}));
  EXPECT_EQ(set.Get("embedding.weight").value.sizes().vec(), (std::vector<int64_t>{7, 4}));
  EXPECT_EQ(set.Get("cell.weight_ih").value.sizes().vec(), (std::vector<int64_t>{12, 4}));
  EXPECT_THROW(set.Get("attention.memory.weight"), std::out_of_range);
}

TEST(ParameterSetTest, AnLstmHasNoAttentionAndReadsOneHotSymbols) {
  ModelConfig config{.kind = Kind::kLstm, .hidden_size = 3};
  ParameterSet set(config, {.inputs = 0, .vocabulary = 7, .outputs = 2}, at::kCPU);
  EXPECT_EQ(set.all().size(), 6u);
  EXPECT_EQ(set.Get("cell.weight_ih").value.sizes().vec(), (std::vector<int64_t>{12, 7}));
  EXPECT_EQ(set.Get("output.weight").value.sizes().vec(), (std::vector<int64_t>{2, 3}));
}

TEST(ParameterSetTest, InitialValuesFollowTheInitSetting) {
  ModelConfig config{.hidden_size = 64};
  const TaskShape shape{.inputs = 1, .outputs = 10};
  ParameterSet scaled(config, shape, at::kCPU);
  EXPECT_NEAR(StandardDeviation(scaled.Get("attention.memory.weight")), 1.0 / 8, 0.005);
  EXPECT_NEAR(StandardDeviation(scaled.Get("attention.score.weight")), 1.0 / 8, 0.03);
  config.init = Init::kPaper;
  ParameterSet paper(config, shape, at::kCPU);
  EXPECT_NEAR(StandardDeviation(paper.Get("attention.query.weight")), 1, 0.04);
  EXPECT_NEAR(StandardDeviation(paper.Get("attention.score.weight")), 0.01, 0.003);
  config.kind = Kind::kAttention;
  ParameterSet attention(config, shape, at::kCPU);
  EXPECT_NEAR(StandardDeviation(attention.Get("attention.query.weight")), 0.01, 0.0004);
  config.init_std = 0.5;
  ParameterSet overridden(config, shape, at::kCPU);
  EXPECT_NEAR(StandardDeviation(overridden.Get("attention.query.weight")), 0.5, 0.02);
  EXPECT_NEAR(StandardDeviation(overridden.Get("attention.score.weight")), 0.5, 0.12);
}

TEST(ParameterSetTest, CellAndOutputAreUniformWithinTheirBounds) {
  ParameterSet set({.hidden_size = 64}, {.inputs = 1, .outputs = 10}, at::kCPU);
  for (const char* name : {"cell.weight_ih", "cell.weight_hh", "cell.bias_ih", "cell.bias_hh"}) {
    const at::Tensor value = set.Get(name).value;
    EXPECT_LE(value.abs().max().item<double>(), 1.0 / 8);
    EXPECT_GT(value.abs().max().item<double>(), 0.95 / 8);
    EXPECT_NEAR(value.std().item<double>(), 1 / (8 * std::sqrt(3.0)), 0.006);
  }
  EXPECT_LE(set.Get("output.weight").value.abs().max().item<double>(), 1 / std::sqrt(128.0));
}

TEST(ParameterSetTest, ValuesAreAFunctionOfSeedAndName) {
  const TaskShape shape{.inputs = 1, .outputs = 10};
  ParameterSet first({.hidden_size = 8, .seed = 5}, shape, at::kCPU),
      again({.hidden_size = 8, .seed = 5}, shape, at::kCPU);
  EXPECT_TRUE(first.values().equal(again.values()));
  ParameterSet other({.hidden_size = 8, .seed = 6}, shape, at::kCPU);
  EXPECT_FALSE(first.values().equal(other.values()));
  ParameterSet lstm({.kind = Kind::kLstm, .hidden_size = 8, .seed = 5}, shape, at::kCPU);
  EXPECT_TRUE(first.Get("cell.weight_hh").value.equal(lstm.Get("cell.weight_hh").value));
  EXPECT_FALSE(first.Get("cell.bias_ih").value.equal(first.Get("cell.bias_hh").value));
  // By hand: the first value is the first number of the name's stream.
  Random random(5, HashBytes("cell.bias_ih", 12));
  EXPECT_EQ(first.Get("cell.bias_ih").value[0].item<float>(),
            static_cast<float>((2 * random.Uniform() - 1) / std::sqrt(8.0)));
}

TEST(ParameterSetTest, DoubleHoldsTheSameNumbersUnrounded) {
  const TaskShape shape{.inputs = 1, .outputs = 10};
  ParameterSet single({.hidden_size = 8}, shape, at::kCPU);
  ParameterSet twice({.hidden_size = 8, .precision = Precision::kFp64}, shape, at::kCPU);
  EXPECT_EQ(twice.values().scalar_type(), at::kDouble);
  EXPECT_TRUE(twice.values().to(at::kFloat).equal(single.values()));
}

TEST(ParameterSetTest, ValuesAndGradientsAreViewsOfTheFlatBuffers) {
  ParameterSet set({.hidden_size = 2}, {.inputs = 1, .outputs = 3}, at::kCPU);
  EXPECT_EQ(set.gradients().abs().sum().item<double>(), 0);
  set.values().fill_(2);
  set.gradients().fill_(3);
  for (const Parameter& parameter : set.all()) {
    EXPECT_EQ(parameter.value.min().item<float>(), 2);
    EXPECT_EQ(parameter.gradient.min().item<float>(), 3);
    EXPECT_EQ(parameter.value.sizes(), parameter.gradient.sizes());
  }
}

TEST(ParameterSetTest, RefusesShapesThatMakeNoNetwork) {
  const TaskShape shape{.inputs = 1, .outputs = 10};
  EXPECT_THROW(ParameterSet({.hidden_size = 0}, shape, at::kCPU), std::invalid_argument);
  EXPECT_THROW(ParameterSet({}, {.inputs = 0, .outputs = 10}, at::kCPU), std::invalid_argument);
  EXPECT_THROW(ParameterSet({}, {.inputs = 1, .vocabulary = 5, .outputs = 10}, at::kCPU), std::invalid_argument);
  EXPECT_THROW(ParameterSet({}, {.inputs = 1, .outputs = 0}, at::kCPU), std::invalid_argument);
  EXPECT_THROW(ParameterSet({.embedding_size = 3}, shape, at::kCPU), std::invalid_argument);
  EXPECT_THROW(ParameterSet({.k_top = 0}, shape, at::kCPU), std::invalid_argument);
}

}  // namespace
}  // namespace sab::model
