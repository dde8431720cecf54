#pragma once

#include <google/protobuf/message.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "sab/v1/job.pb.h"
#include "sab/v1/worker_service.pb.h"

namespace sab::client {

// "40s", "5m", "1h30m", "500ms". InvalidArgument: anything else, negative ones included.
absl::StatusOr<absl::Duration> ParseDuration(std::string_view text);

// For people, two units at most: "850ms", "40s", "2m24s", "1h05m", "3d04h"; "-" when infinite or negative.
std::string ShortDuration(absl::Duration duration);

// Four significant digits: "0.03125", "87.5", "1.2e-07", "NaN".
std::string FormatNumber(double value);

// The shortest text that reads back as the same number; JSON strings "NaN", "Infinity", "-Infinity" for what JSON
// lacks.
std::string JsonNumber(double value);

// "RUNNING"; "READY".
std::string StateName(v1::JobState state);
std::string StateName(v1::WorkerState state);

// Protobuf's JSON with the proto's field names, indented; every field of the resource is there, but a job's spec only
// has what applies to it.
std::string ToJson(const google::protobuf::Message& message);
// The same, as YAML.
std::string ToYaml(const google::protobuf::Message& message);
// {"NAME": [messages]}.
std::string ToJson(std::string_view name, const std::vector<const google::protobuf::Message*>& messages);

// "300/20000"; "300" for a job that does not train: pieces of its work, of which `total` 0 is known.
std::string FormatStep(int64_t step, int64_t total);

// "3" or "5m12s ago": a moment as its distance to `now`.
std::string FormatAge(const google::protobuf::Timestamp& moment, absl::Time now);
absl::Time ToTime(const google::protobuf::Timestamp& timestamp);

// Columns padded to their widest cell; the header in capitals comes first.
class Table {
 public:
  explicit Table(std::vector<std::string> header);
  void Add(std::vector<std::string> row);
  // One line a row; no trailing blanks.
  std::string Text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace sab::client
