#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sab {

// One refused field of a request or file.
struct FieldViolation {
  std::string field;   // "task.length"
  std::string reason;  // "must be at least 1, got 0"
  int line = 0;        // of the file, from 1; 0: no file
};

// InvalidArgument whose text lists all violations and whose details (google.rpc.BadRequest) carry them one by one.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations);

// Adds google.rpc.ErrorInfo{reason, domain "sab"} to `status`. `reason` is UPPER_SNAKE_CASE, listed in docs/ERRORS.md.
absl::Status WithReason(absl::Status status, std::string_view reason);

// "" without an ErrorInfo.
std::string ReasonOf(const absl::Status& status);

// Empty without a BadRequest.
std::vector<FieldViolation> ViolationsOf(const absl::Status& status);

// Puts "context: " before the text; code and details stay.
absl::Status Annotate(const absl::Status& status, std::string_view context);

}  // namespace sab

// Returns from the present function when `expr` is not OK.
#define SAB_RETURN_IF_ERROR(expr)                                                 \
  do {                                                                            \
    if (absl::Status sab_status_ = (expr); !sab_status_.ok()) return sab_status_; \
  } while (false)

#define SAB_CONCAT_INNER_(a, b) a##b
#define SAB_CONCAT_(a, b) SAB_CONCAT_INNER_(a, b)
// SAB_ASSIGN_OR_RETURN(auto x, F()): x is the value, or the present function returns the error.
#define SAB_ASSIGN_OR_RETURN(lhs, expr)                                                     \
  auto SAB_CONCAT_(sab_or_, __LINE__) = (expr);                                             \
  if (!SAB_CONCAT_(sab_or_, __LINE__).ok()) return SAB_CONCAT_(sab_or_, __LINE__).status(); \
  lhs = *std::move(SAB_CONCAT_(sab_or_, __LINE__))
