#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sab/v1/spec.pb.h"

namespace sab::spec {

// A job file as read: the message, and for messages to the user the line every field stands on ("train.steps" -> 7).
struct SpecFile {
  v1::JobSpec spec;
  std::map<std::string, int> lines;
};

// Reads YAML or JSON (JSON is YAML). Keys are the proto's field names, enum values lower case without prefix. Driven by
// the descriptor: a new field of the proto is a new key here. `resources.replicas` may be a range, {min: 1, max: 4}:
// min_replicas 1 and replicas 4. A file of the right form is read as it is: its values are
// not validated, no default is filled in. InvalidArgument (InvalidFields) lists every unknown key, duplicate key, wrong
// type and unreadable value, with line, and what Validate finds in the rest of such a file. Files above 1 MiB and
// nesting above 16 levels are refused.
absl::StatusOr<SpecFile> ParseSpec(std::string_view text);

// "train.steps=500", "eval.lengths=[20,40]", "model.kind=lstm": sets one field from YAML text. InvalidArgument names
// the assignment.
absl::Status ApplyOverride(std::string_view assignment, v1::JobSpec* spec);

// The inverse, with every field that is set. Parses back to the same message.
std::string FormatYaml(const v1::JobSpec& spec);

}  // namespace sab::spec
