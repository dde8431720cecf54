#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/status.h"
#include "sab/v1/spec.pb.h"

namespace sab::spec {

// `train.shards` where `train.deterministic` is given alone.
inline constexpr int64_t kDefaultShards = 4;

// Every violation, in the order of the proto's fields: out of range, missing, a setting of another kind of model or
// task, contradictions. Paths: form only. Pure. `spec` may have its defaults resolved or not: the answer is the same.
std::vector<FieldViolation> Validate(const v1::JobSpec& spec);

// Paths of the spec that cannot be read on this machine. Touches the file system.
std::vector<FieldViolation> CheckPaths(const v1::JobSpec& spec);

// Fills in every default that applies to the spec's kinds, as spec.proto states them; a setting of another kind stays
// absent. Idempotent. `spec` has no violations.
void ResolveDefaults(v1::JobSpec* spec);

// "accuracy >= 0.999": the condition of eval.stop_when and curriculum.advance_when.
struct Condition {
  enum class Op { kAtLeast, kAtMost, kAbove, kBelow };
  std::string metric;
  Op op = Op::kAtLeast;
  double value = 0;

  bool Holds(double measured) const;  // false for NaN
};
// InvalidArgument shows the form expected.
absl::StatusOr<Condition> ParseCondition(std::string_view text);

// "2h30m"; InfiniteDuration for "". InvalidArgument shows the form expected.
absl::StatusOr<absl::Duration> ParseTimeLimit(std::string_view text);

// Of checkpoint.within_update: "60s"; zero, which is none, for "0" and "". InvalidArgument shows the form expected.
absl::StatusOr<absl::Duration> ParseSaveInterval(std::string_view text);

// Whether the job trains, which it does unless it says otherwise.
bool IsTraining(const v1::JobSpec& spec);

// Metrics that evaluation of a task reports and a condition may name: loss always; accuracy, ce10 (copy), bits (text),
// mse (adding) …
std::vector<std::string> EvalMetrics(v1::TaskKind task);

}  // namespace sab::spec
