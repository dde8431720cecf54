#include "common/spec/parameters.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/spec/model_config.h"
#include "common/spec/validate.h"
#include "common/spec/words.h"

namespace sab::spec {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("(",
                      absl::StrJoin(shape, ", ",
                                    [](std::string* out, int64_t size) {
                                      absl::StrAppend(out, size == kUnknownSize ? "?" : absl::StrCat(size));
                                    }),
                      ")");
}

bool Fits(const std::vector<int64_t>& wanted, const std::vector<int64_t>& found) {
  return std::equal(wanted.begin(), wanted.end(), found.begin(), found.end(),
                    [](int64_t want, int64_t have) { return want == kUnknownSize || want == have; });
}

template <typename Value>
std::string Text(const Value& value) {
  return absl::StrCat(value);
}
std::string Text(v1::ModelKind kind) {
  return Word(*v1::ModelKind_descriptor()->FindValueByNumber(kind));
}
std::string Text(v1::ScoreKind kind) {
  return Word(*v1::ScoreKind_descriptor()->FindValueByNumber(kind));
}
std::string Text(v1::TaskKind kind) {
  return Word(*v1::TaskKind_descriptor()->FindValueByNumber(kind));
}

// "model.hidden_size 64 where that job had 128", for every setting that shapes depend on and that differs.
std::string Differences(const v1::JobSpec& mine, const v1::JobSpec& theirs) {
  std::vector<std::string> differences;
  const auto compare = [&](const char* field, const auto& here, const auto& there) {
    if (here == there) return;
    differences.push_back(absl::StrCat(field, " ", Text(here), " where that job had ", Text(there)));
  };
  compare("model.kind", mine.model().kind(), theirs.model().kind());
  compare("model.hidden_size", mine.model().hidden_size(), theirs.model().hidden_size());
  if (mine.model().kind() == theirs.model().kind())
    compare("model.score", mine.model().score(), theirs.model().score());
  compare("model.embedding_size", mine.model().embedding_size(), theirs.model().embedding_size());
  compare("task.kind", mine.task().kind(), theirs.task().kind());
  compare("task.one_hot", mine.task().one_hot() ? "true" : "false", theirs.task().one_hot() ? "true" : "false");
  return absl::StrJoin(differences, ", ");
}

}  // namespace

std::vector<ParameterShape> ParametersOf(const v1::JobSpec& given) {
  v1::JobSpec spec = given;
  ResolveDefaults(&spec);
  const model::ModelConfig config = ToModelConfig(spec);
  const std::optional<model::TaskShape> shape = ShapeOf(spec.task());
  const int64_t inputs = shape ? shape->inputs : kUnknownSize, outputs = shape ? shape->outputs : kUnknownSize;
  const int64_t h = config.hidden_size;
  const bool attends = config.kind != model::Kind::kLstm;
  std::vector<ParameterShape> parameters = {
      {"cell.weight_ih", {4 * h, config.embedding_size > 0 ? config.embedding_size : inputs}},
      {"cell.weight_hh", {4 * h, h}},
      {"cell.bias_ih", {4 * h}},
      {"cell.bias_hh", {4 * h}}};
  if (attends && config.kind == model::Kind::kSab && config.score == model::Score::kSeparable) {
    parameters.push_back({"attention.query_score.weight", {h}});
    parameters.push_back({"attention.memory_score.weight", {h}});
  } else if (attends) {
    parameters.push_back({"attention.memory.weight", {h, h}});
    parameters.push_back({"attention.query.weight", {h, h}});
    parameters.push_back({"attention.score.weight", {h}});
  }
  parameters.push_back({"output.weight", {outputs, attends ? 2 * h : h}});
  parameters.push_back({"output.bias", {outputs}});
  if (config.embedding_size > 0) parameters.push_back({"embedding.weight", {kUnknownSize, config.embedding_size}});
  return parameters;
}

std::vector<FieldViolation> CheckFits(const v1::JobSpec& given, const std::string& checkpoint,
                                      const v1::JobSpec& given_trained, const std::vector<ParameterShape>& stored) {
  v1::JobSpec spec = given, trained = given_trained;
  ResolveDefaults(&spec);
  ResolveDefaults(&trained);
  const std::string job = checkpoint.substr(0, checkpoint.find("/checkpoints/"));
  const std::string differences = Differences(spec, trained);
  const std::string next = absl::StrCat(differences.empty() ? "" : absl::StrCat(" (", differences, ")"),
                                        "; take the settings of that job: `sabctl get ", job, " -o yaml`");
  for (const ParameterShape& wanted : ParametersOf(spec)) {
    const auto found = std::find_if(stored.begin(), stored.end(),
                                    [&](const ParameterShape& other) { return other.name == wanted.name; });
    if (found == stored.end()) {
      return {{"init_from.checkpoint",
               absl::StrCat(checkpoint, " has no parameter ", wanted.name, ", which this network has", next)}};
    }
    if (!Fits(wanted.shape, found->shape)) {
      return {{"init_from.checkpoint", absl::StrCat(checkpoint, " has ", wanted.name, " ", ShapeText(found->shape),
                                                    ", this network ", ShapeText(wanted.shape), next)}};
    }
  }
  return {};
}

}  // namespace sab::spec
