#include "server/coordinator/job_filter.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

absl::Status BadTerm(absl::string_view term, absl::string_view why) {
  return WithReason(absl::InvalidArgumentError(absl::StrCat(
                        "filter: \"", term, "\": ", why, "; write for example: state = RUNNING AND labels.team = x")),
                    "BAD_FILTER");
}

absl::string_view Unquote(absl::string_view value) {
  if (value.size() >= 2 && value.front() == '"' && value.back() == '"') return value.substr(1, value.size() - 2);
  return value;
}

}  // namespace

absl::StatusOr<JobFilter> JobFilter::Parse(std::string_view text) {
  JobFilter filter;
  const absl::string_view all = absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size()));
  if (all.empty()) return filter;
  for (absl::string_view term : absl::StrSplit(all, " AND ")) {
    const std::vector<absl::string_view> sides = absl::StrSplit(term, absl::MaxSplits('=', 1));
    if (sides.size() != 2) return BadTerm(term, "has no \"=\"");
    Term parsed{std::string(absl::StripAsciiWhitespace(sides[0])),
                std::string(Unquote(absl::StripAsciiWhitespace(sides[1])))};
    if (parsed.value.empty()) return BadTerm(term, "has no value");
    if (parsed.key == "state") {
      v1::JobState state;
      if (!v1::JobState_Parse("JOB_STATE_" + parsed.value, &state)) return BadTerm(term, "is no state of a job");
    } else if (parsed.key != "name" && (parsed.key.rfind("labels.", 0) != 0 || parsed.key.size() == 7)) {
      return BadTerm(term, "only state, name and labels.NAME can be filtered by");
    }
    filter.terms_.push_back(std::move(parsed));
  }
  return filter;
}

bool JobFilter::Matches(const v1::Job& job) const {
  for (const Term& term : terms_) {
    if (term.key == "state") {
      if (StateName(job.state()) != term.value) return false;
    } else if (term.key == "name") {
      if (job.spec().name() != term.value) return false;
    } else {
      auto it = job.spec().labels().find(term.key.substr(7));
      if (it == job.spec().labels().end() || it->second != term.value) return false;
    }
  }
  return true;
}

}  // namespace sab::server
