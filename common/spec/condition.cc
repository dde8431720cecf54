#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/spec/validate.h"

namespace sab::spec {
namespace {

bool IsMetricName(const std::string& text) {
  if (text.empty() || text.size() > 64 || !absl::ascii_isalpha(static_cast<unsigned char>(text[0]))) return false;
  for (char c : text) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '_') return false;
  }
  return true;
}

}  // namespace

bool Condition::Holds(double measured) const {
  switch (op) {
    case Op::kAtLeast:
      return measured >= value;
    case Op::kAtMost:
      return measured <= value;
    case Op::kAbove:
      return measured > value;
    case Op::kBelow:
      return measured < value;
  }
  return false;
}

absl::StatusOr<Condition> ParseCondition(std::string_view text) {
  const absl::Status wrong = absl::InvalidArgumentError(absl::StrCat(
      "must have the form METRIC OP NUMBER with OP one of >=, <=, >, <, for example \"accuracy >= 0.999\", got \"",
      std::string(text.substr(0, 100)), "\""));
  const size_t at = text.find_first_of("<>");
  if (at == std::string_view::npos) return wrong;
  const bool or_equal = at + 1 < text.size() && text[at + 1] == '=';
  Condition condition;
  condition.metric = std::string(absl::StripAsciiWhitespace(std::string(text.substr(0, at))));
  condition.op = text[at] == '>' ? (or_equal ? Condition::Op::kAtLeast : Condition::Op::kAbove)
                                 : (or_equal ? Condition::Op::kAtMost : Condition::Op::kBelow);
  const std::string number(text.substr(at + (or_equal ? 2 : 1)));
  if (!IsMetricName(condition.metric) || !absl::SimpleAtod(number, &condition.value) ||
      !std::isfinite(condition.value)) {
    return wrong;
  }
  return condition;
}

std::vector<std::string> EvalMetrics(v1::TaskKind task) {
  switch (task) {
    case v1::TASK_KIND_COPY:
      return {"loss", "accuracy", "ce10"};
    case v1::TASK_KIND_ADDING:
      return {"loss", "mse"};
    case v1::TASK_KIND_RECALL:
    case v1::TASK_KIND_IMAGE:
      return {"loss", "accuracy"};
    case v1::TASK_KIND_TEXT:
      return {"loss", "bits"};
    case v1::TASK_KIND_TENSOR:
      return {"loss", "accuracy", "mse"};
    default:
      return {"loss"};
  }
}

}  // namespace sab::spec
