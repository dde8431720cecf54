#include "server/coordinator/text.h"

#include <algorithm>

namespace sab::server {

google::protobuf::Timestamp ToProto(absl::Time time) {
  const int64_t micros = absl::ToUnixMicros(time);
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(micros / 1000000);
  timestamp.set_nanos(static_cast<int32_t>(micros % 1000000 * 1000));
  return timestamp;
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  const int64_t micros = absl::ToInt64Microseconds(duration);
  google::protobuf::Duration proto;
  proto.set_seconds(micros / 1000000);
  proto.set_nanos(static_cast<int32_t>(micros % 1000000 * 1000));
  return proto;
}

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return std::max(absl::ZeroDuration(), absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos()));
}

absl::Time FromProto(const google::protobuf::Timestamp& timestamp) {
  return absl::FromUnixSeconds(timestamp.seconds()) + absl::Nanoseconds(timestamp.nanos());
}

std::string StateName(v1::JobState state) {
  return v1::JobState_Name(state).substr(sizeof("JOB_STATE_") - 1);
}

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED;
}

bool IsActive(v1::JobState state) {
  return state == v1::JOB_STATE_STARTING || state == v1::JOB_STATE_RUNNING || state == v1::JOB_STATE_UNREACHABLE;
}

}  // namespace sab::server
