#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "sab/v1/job.pb.h"

namespace sab::server {

// A filter of ListJobs: terms joined by AND, each `state = RUNNING`, `name = copy-100` or `labels.team = x`. Values
// with spaces stand in double quotes. Empty: every job.
class JobFilter {
 public:
  // InvalidArgument (reason BAD_FILTER) names the term that cannot be read.
  static absl::StatusOr<JobFilter> Parse(std::string_view text);
  bool Matches(const v1::Job& job) const;

 private:
  struct Term {
    std::string key;  // "state", "name", or "labels." and the label's name
    std::string value;
  };
  std::vector<Term> terms_;
};

}  // namespace sab::server
