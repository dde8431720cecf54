#include "common/rpc/trainer_id.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sab::rpc {

std::string FormatTrainerId(const v1::TrainerId& id) {
  return absl::StrCat(id.job(), "/attempts/", id.attempt(), "/ranks/", id.rank());
}

absl::StatusOr<v1::TrainerId> ParseTrainerId(std::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(std::string(text), '/');
  int64_t attempt = 0;
  int32_t rank = 0;
  if (parts.size() != 6 || parts[0] != "jobs" || parts[1].empty() || parts[2] != "attempts" || parts[4] != "ranks" ||
      !absl::SimpleAtoi(parts[3], &attempt) || !absl::SimpleAtoi(parts[5], &rank) || attempt < 1 || rank < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("trainer id: must have the form jobs/{job}/attempts/{attempt}/ranks/{rank}, got \"",
                     std::string(text.substr(0, 200)), "\""));
  }
  v1::TrainerId id;
  id.set_job(absl::StrCat("jobs/", parts[1]));
  id.set_attempt(attempt);
  id.set_rank(rank);
  return id;
}

}  // namespace sab::rpc
