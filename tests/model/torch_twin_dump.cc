// Runs the reference engine in double on one random batch a line of standard input and writes what it read and found,
// for torch_twin_test.py to compare with its own:
//
//   torch_twin_dump FOLDER < lines of "NAME key=value ..."
//
// Keys are settings of the model, or rows, steps, inputs, vocabulary, outputs, loss (every|last|mse), ragged. For each
// line NAME.txt lists tensors in order ("tensor NAME f64|i64 SIZES...") and figures ("figure NAME VALUE"), NAME.bin
// holds the tensors' bytes.
#include <ATen/core/Tensor.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>

#include "model/engine.h"
#include "tests/model/reference_batch.h"

namespace sab::model {
namespace {

struct Case {
  ModelConfig config{.hidden_size = 6, .tie_guard = 0, .engine = EngineKind::kReference, .precision = Precision::kFp64};
  TaskShape shape{.inputs = 2, .outputs = 4};
  RandomBatchOptions batch;
};

using Setter = std::function<void(Case&, const std::string&)>;

Setter Integer(int64_t ModelConfig::*field) {
  return [field](Case& c, const std::string& text) { c.config.*field = std::stoll(text); };
}

Setter Flag(bool ModelConfig::*field) {
  return [field](Case& c, const std::string& text) { c.config.*field = text == "true"; };
}

template <typename Enum>
Enum Pick(const std::map<std::string, Enum>& values, const std::string& text) {
  const auto found = values.find(text);
  if (found == values.end()) throw std::invalid_argument("unknown value " + text);
  return found->second;
}

template <typename Enum>
Setter Choice(Enum ModelConfig::*field, std::map<std::string, Enum> values) {
  return [field, values](Case& c, const std::string& text) { c.config.*field = Pick(values, text); };
}

void SetLoss(Case& c, const std::string& text) {
  c.shape.loss = Pick<LossKind>({{"every", LossKind::kCrossEntropyEveryStep},
                                 {"last", LossKind::kCrossEntropyLastStep},
                                 {"mse", LossKind::kMseLastStep}},
                                text);
}

const std::map<std::string, Setter>& Setters() {
  using C = ModelConfig;
  static const std::map<std::string, Setter> setters = {
      {"kind", Choice<Kind>(&C::kind, {{"sab", Kind::kSab}, {"lstm", Kind::kLstm}, {"attention", Kind::kAttention}})},
      {"hidden_size", Integer(&C::hidden_size)},
      {"k_trunc", Integer(&C::k_trunc)},
      {"k_att", Integer(&C::k_att)},
      {"k_top", Integer(&C::k_top)},
      {"score", Choice<Score>(&C::score, {{"mlp", Score::kMlp}, {"separable", Score::kSeparable}})},
      {"recall", Choice<Recall>(&C::recall, {{"top", Recall::kTop},
                                             {"all", Recall::kAll},
                                             {"random", Recall::kRandom},
                                             {"last", Recall::kLast}})},
      {"truncate", Choice<Truncate>(&C::truncate, {{"both", Truncate::kBoth}, {"h", Truncate::kH}})},
      {"mental_updates", Flag(&C::mental_updates)},
      {"detach_scores", Flag(&C::detach_scores)},
      {"tie_guard", [](Case& c, const std::string& text) { c.config.tie_guard = std::stod(text); }},
      {"normaliser",
       Choice<Normaliser>(&C::normaliser, {{"softmax", Normaliser::kSoftmax}, {"none", Normaliser::kNone}})},
      {"dense", Choice<Dense>(&C::dense, {{"raw", Dense::kRaw}, {"softmax", Dense::kSoftmax}})},
      {"memory_state", Choice<MemoryState>(&C::memory_state, {{"recalled", MemoryState::kRecalled},
                                                              {"provisional", MemoryState::kProvisional}})},
      {"memory_capacity", Integer(&C::memory_capacity)},
      {"memory_policy", Choice<MemoryPolicy>(&C::memory_policy, {{"recent", MemoryPolicy::kRecent},
                                                                 {"salient", MemoryPolicy::kSalient}})},
      {"memory_recent", Integer(&C::memory_recent)},
      {"init", Choice<Init>(&C::init, {{"paper", Init::kPaper}, {"scaled", Init::kScaled}})},
      {"embedding_size", Integer(&C::embedding_size)},
      {"rows", [](Case& c, const std::string& text) { c.batch.rows = std::stoll(text); }},
      {"steps", [](Case& c, const std::string& text) { c.batch.steps = std::stoll(text); }},
      {"ragged", [](Case& c, const std::string& text) { c.batch.ragged = text == "true"; }},
      {"inputs", [](Case& c, const std::string& text) { c.shape.inputs = std::stoll(text); }},
      {"vocabulary",
       [](Case& c, const std::string& text) {
         c.shape.vocabulary = std::stoll(text);
         c.shape.inputs = 0;
       }},
      {"outputs", [](Case& c, const std::string& text) { c.shape.outputs = std::stoll(text); }},
      {"loss", SetLoss},
  };
  return setters;
}

Case ParseCase(std::istream& words) {
  Case result;
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    const auto setter = Setters().find(word.substr(0, equals));
    if (equals == std::string::npos || setter == Setters().end())
      throw std::invalid_argument("unknown setting " + word);
    setter->second(result, word.substr(equals + 1));
  }
  return result;
}

class Dump {
 public:
  explicit Dump(const std::string& stem) : list_(stem + ".txt"), bytes_(stem + ".bin", std::ios::binary) {}

  void Tensor(const std::string& name, const at::Tensor& value) {
    list_ << "tensor " << name << (value.is_floating_point() ? " f64" : " i64");
    for (int64_t size : value.sizes()) list_ << ' ' << size;
    list_ << '\n';
    const at::Tensor plain = value.contiguous();
    bytes_.write(static_cast<const char*>(plain.const_data_ptr()), static_cast<std::streamsize>(plain.nbytes()));
  }
  void Figure(const std::string& name, double value) {
    char text[64];
    std::snprintf(text, sizeof text, "%.17g", value);
    list_ << "figure " << name << ' ' << text << '\n';
  }

 private:
  std::ofstream list_, bytes_;
};

void Run(const std::string& stem, const Case& c) {
  ParameterSet parameters(c.config, c.shape, at::kCPU);
  const Batch batch = RandomBatch(c.shape, c.batch);
  const std::unique_ptr<Engine> engine = MakeEngine(c.config, c.shape, parameters);
  const PassSums sums = engine->ForwardBackward(batch, 1);
  Dump dump(stem);
  dump.Tensor("inputs", batch.inputs);
  dump.Tensor("targets", batch.targets);
  if (batch.lengths.defined()) dump.Tensor("lengths", batch.lengths);
  dump.Tensor("outputs", engine->Outputs(batch));
  for (const Parameter& parameter : parameters.all()) {
    dump.Tensor("value/" + parameter.name, parameter.value);
    dump.Tensor("gradient/" + parameter.name, parameter.gradient);
  }
  dump.Figure("loss_sum", sums.loss_sum);
  dump.Figure("loss_count", static_cast<double>(sums.loss_count));
  dump.Figure("guarded_count", static_cast<double>(sums.guarded_count));
  dump.Figure("max_hidden_norm", sums.max_hidden_norm);
}

}  // namespace
}  // namespace sab::model

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: torch_twin_dump FOLDER < cases\n";
    return 2;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string name;
    if (!(words >> name)) continue;
    sab::model::Run(std::string(argv[1]) + "/" + name, sab::model::ParseCase(words));
  }
}
