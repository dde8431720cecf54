#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace sab {

// A string that cannot be mistaken for another kind of string.
template <typename Tag>
class StrongId {
 public:
  StrongId() = default;
  explicit StrongId(std::string value) : value_(std::move(value)) {}

  const std::string& value() const { return value_; }
  bool empty() const { return value_.empty(); }
  // Resource name, for example "jobs/3f9k2mzq".
  std::string name() const { return std::string(Tag::kCollection) + "/" + value_; }

  friend bool operator==(const StrongId& a, const StrongId& b) { return a.value_ == b.value_; }
  friend auto operator<=>(const StrongId& a, const StrongId& b) { return a.value_ <=> b.value_; }
  template <typename H>
  friend H AbslHashValue(H h, const StrongId& id) {
    return H::combine(std::move(h), id.value_);
  }
  friend std::ostream& operator<<(std::ostream& out, const StrongId& id) { return out << id.name(); }

 private:
  std::string value_;
};

struct JobIdTag {
  static constexpr std::string_view kCollection = "jobs";
};
struct WorkerIdTag {
  static constexpr std::string_view kCollection = "workers";
};
using JobId = StrongId<JobIdTag>;
using WorkerId = StrongId<WorkerIdTag>;

// "jobs/3f9k2mzq" -> the id. InvalidArgument names the text and the form expected. Ids are 1 to 63 of [a-z0-9-].
absl::StatusOr<JobId> ParseJobName(std::string_view name);
absl::StatusOr<WorkerId> ParseWorkerName(std::string_view name);

// The two parts of "jobs/{job}/checkpoints/{checkpoint}".
struct CheckpointName {
  JobId job;
  std::string checkpoint;

  std::string name() const { return job.name() + "/checkpoints/" + checkpoint; }
};
absl::StatusOr<CheckpointName> ParseCheckpointName(std::string_view name);

// "000000000500-a2": sorts by step, and two attempts never share it.
std::string MakeCheckpointId(int64_t step, int64_t attempt);

// `length` characters of [0-9a-z] without look-alikes, from the system's randomness.
std::string RandomId(int length);

}  // namespace sab
