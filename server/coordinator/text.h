#pragma once

#include <string>

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "sab/v1/job.pb.h"

namespace sab::server {

google::protobuf::Timestamp ToProto(absl::Time time);
google::protobuf::Duration ToProto(absl::Duration duration);
// Negative and unset: zero.
absl::Duration FromProto(const google::protobuf::Duration& duration);
absl::Time FromProto(const google::protobuf::Timestamp& timestamp);

// What Attempt.recovery_source starts with when it is not a checkpoint's name.
inline constexpr char kMemorySource[] = "memory";

// "RUNNING".
std::string StateName(v1::JobState state);

// SUCCEEDED, FAILED or CANCELLED.
bool IsFinal(v1::JobState state);
// STARTING, RUNNING or UNREACHABLE: the last attempt has not ended.
bool IsActive(v1::JobState state);

}  // namespace sab::server
