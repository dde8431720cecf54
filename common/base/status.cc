#include "common/base/status.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"

namespace sab {
namespace {

constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";

template <typename Message>
bool ReadPayload(const absl::Status& status, const char* url, Message* message) {
  const absl::optional<absl::Cord> payload = status.GetPayload(url);
  return payload.has_value() && message->ParseFromString(std::string(*payload));
}

}  // namespace

absl::Status InvalidFields(const std::vector<FieldViolation>& violations) {
  google::rpc::BadRequest details;
  std::string text;
  for (const FieldViolation& violation : violations) {
    auto* entry = details.add_field_violations();
    entry->set_field(violation.field);
    entry->set_description(violation.line > 0 ? absl::StrCat("line ", violation.line, ": ", violation.reason)
                                              : violation.reason);
    absl::StrAppend(&text, text.empty() ? "" : "\n",
                    violation.line > 0 ? absl::StrCat("line ", violation.line, ": ") : "", violation.field,
                    violation.field.empty() ? "" : ": ", violation.reason);
  }
  absl::Status status = absl::InvalidArgumentError(text);
  status.SetPayload(kBadRequestUrl, absl::Cord(details.SerializeAsString()));
  return status;
}

absl::Status WithReason(absl::Status status, std::string_view reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain("sab");
  status.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  google::rpc::ErrorInfo info;
  return ReadPayload(status, kErrorInfoUrl, &info) ? info.reason() : "";
}

std::vector<FieldViolation> ViolationsOf(const absl::Status& status) {
  google::rpc::BadRequest details;
  std::vector<FieldViolation> violations;
  if (!ReadPayload(status, kBadRequestUrl, &details)) return violations;
  for (const auto& entry : details.field_violations()) {
    violations.push_back({.field = entry.field(), .reason = entry.description()});
  }
  return violations;
}

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(),
                         absl::StrCat(absl::string_view(context.data(), context.size()), ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) { annotated.SetPayload(url, payload); });
  return annotated;
}

}  // namespace sab
