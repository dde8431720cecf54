#include "common/base/ids.h"

#include <random>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sab {
namespace {

absl::string_view View(std::string_view text) {
  return {text.data(), text.size()};
}

bool IsId(std::string_view text) {
  if (text.empty() || text.size() > 63) return false;
  for (char c : text) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')) return false;
  }
  return true;
}

template <typename Id, typename Tag>
absl::StatusOr<Id> ParseName(std::string_view name) {
  const std::string prefix = std::string(Tag::kCollection) + "/";
  if (name.substr(0, prefix.size()) != prefix || !IsId(name.substr(prefix.size()))) {
    return absl::InvalidArgumentError(
        absl::StrCat("name: must have the form ", prefix, "{id}, got \"", View(name.substr(0, 200)), "\""));
  }
  return Id(std::string(name.substr(prefix.size())));
}

}  // namespace

absl::StatusOr<JobId> ParseJobName(std::string_view name) {
  return ParseName<JobId, JobIdTag>(name);
}
absl::StatusOr<WorkerId> ParseWorkerName(std::string_view name) {
  return ParseName<WorkerId, WorkerIdTag>(name);
}

absl::StatusOr<CheckpointName> ParseCheckpointName(std::string_view name) {
  constexpr std::string_view kMiddle = "/checkpoints/";
  const size_t at = name.find(kMiddle);
  if (at != std::string_view::npos && IsId(name.substr(at + kMiddle.size()))) {
    if (auto job = ParseJobName(name.substr(0, at)); job.ok()) {
      return CheckpointName{*std::move(job), std::string(name.substr(at + kMiddle.size()))};
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("name: must have the form jobs/{job}/checkpoints/{checkpoint}, got \"",
                                                 View(name.substr(0, 200)), "\""));
}

std::string MakeCheckpointId(int64_t step, int64_t attempt) {
  return absl::StrFormat("%012d-a%d", step, attempt);
}

std::string RandomId(int length) {
  static constexpr std::string_view kAlphabet = "23456789abcdefghjkmnpqrstuvwxyz";
  std::random_device device;
  std::uniform_int_distribution<size_t> index(0, kAlphabet.size() - 1);
  std::string id;
  for (int i = 0; i < length; ++i) id += kAlphabet[index(device)];
  return id;
}

}  // namespace sab
