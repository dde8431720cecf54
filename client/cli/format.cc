#include "client/cli/format.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace sab::client {
namespace {

using Json = nlohmann::ordered_json;

// What a spec does not set says nothing to its reader: unset enums, empty texts and lists.
bool IsUnset(const Json& value) {
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    return text.empty() || absl::EndsWith(text, "_UNSPECIFIED");
  }
  return value.is_null() || ((value.is_array() || value.is_object()) && value.empty());
}

void DropUnset(Json* object) {
  for (auto it = object->begin(); it != object->end();) {
    if (it->is_object()) DropUnset(&*it);
    it = IsUnset(*it) ? object->erase(it) : std::next(it);
  }
}

Json ToOrderedJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return Json::object();
  Json json = Json::parse(text);
  if (json.contains("spec")) DropUnset(&json["spec"]);
  if (json.contains("stop_intent") && IsUnset(json["stop_intent"])) json.erase("stop_intent");
  return json;
}

// A plain YAML scalar when it cannot be taken for anything else, otherwise a JSON string, which YAML reads too.
std::string YamlScalar(const Json& value) {
  if (!value.is_string()) return value.dump();
  const auto& text = value.get_ref<const std::string&>();
  const bool plain =
      !text.empty() && std::isalpha(static_cast<unsigned char>(text[0])) &&
      std::all_of(text.begin(), text.end(),
                  [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '/' || c == '.'; }) &&
      text != "true" && text != "false" && text != "null" && text != "yes" && text != "no";
  return plain ? text : value.dump();
}

void AppendYaml(const Json& json, int indent, std::string* out) {
  const std::string pad(indent, ' ');
  if (json.is_object()) {
    for (const auto& [key, value] : json.items()) {
      const bool nested = (value.is_object() || value.is_array()) && !value.empty();
      absl::StrAppend(out, pad, key, ":", nested ? "\n" : absl::StrCat(" ", YamlScalar(value), "\n"));
      if (nested) AppendYaml(value, indent + 2, out);
    }
    return;
  }
  for (const Json& value : json) {
    if ((value.is_object() || value.is_array()) && !value.empty()) {
      std::string item;
      AppendYaml(value, indent + 2, &item);
      absl::StrAppend(out, pad, "- ", item.substr(indent + 2));
    } else {
      absl::StrAppend(out, pad, "- ", YamlScalar(value), "\n");
    }
  }
}

// Columns that a text takes on a terminal: bytes that continue a UTF-8 character take none.
size_t Width(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](unsigned char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

absl::StatusOr<absl::Duration> ParseDuration(std::string_view text) {
  absl::Duration duration;
  if (absl::ParseDuration({text.data(), text.size()}, &duration) && duration >= absl::ZeroDuration() &&
      duration != absl::InfiniteDuration()) {
    return duration;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", std::string(text), "\" is no duration; write for example 40s, 5m or 1h30m"));
}

std::string ShortDuration(absl::Duration duration) {
  if (duration < absl::ZeroDuration() || duration == absl::InfiniteDuration()) return "-";
  if (duration < absl::Seconds(1)) return absl::StrCat(absl::ToInt64Milliseconds(duration), "ms");
  if (duration < absl::Seconds(10)) return absl::StrFormat("%.1fs", absl::ToDoubleSeconds(duration));
  const int64_t seconds = absl::ToInt64Seconds(duration);
  if (seconds < 60) return absl::StrCat(seconds, "s");
  if (seconds < 3600) return absl::StrFormat("%dm%02ds", seconds / 60, seconds % 60);
  if (seconds < 86400) return absl::StrFormat("%dh%02dm", seconds / 3600, seconds / 60 % 60);
  return absl::StrFormat("%dd%02dh", seconds / 86400, seconds / 3600 % 24);
}

std::string FormatNumber(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return absl::StrFormat("%.4g", value);
}

std::string JsonNumber(double value) {
  if (std::isnan(value)) return "\"NaN\"";
  if (std::isinf(value)) return value > 0 ? "\"Infinity\"" : "\"-Infinity\"";
  char buffer[32];
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string(buffer, result.ptr);
}

std::string StateName(v1::JobState state) {
  return std::string(absl::StripPrefix(v1::JobState_Name(state), "JOB_STATE_"));
}

std::string StateName(v1::WorkerState state) {
  return std::string(absl::StripPrefix(v1::WorkerState_Name(state), "WORKER_STATE_"));
}

std::string ToJson(const google::protobuf::Message& message) {
  return ToOrderedJson(message).dump(2) + "\n";
}

std::string ToYaml(const google::protobuf::Message& message) {
  std::string out;
  AppendYaml(ToOrderedJson(message), 0, &out);
  return out;
}

std::string ToJson(std::string_view name, const std::vector<const google::protobuf::Message*>& messages) {
  Json list = Json::array();
  for (const google::protobuf::Message* message : messages) list.push_back(ToOrderedJson(*message));
  Json object;
  object[std::string(name)] = std::move(list);
  return object.dump(2) + "\n";
}

absl::Time ToTime(const google::protobuf::Timestamp& timestamp) {
  return absl::FromUnixSeconds(timestamp.seconds()) + absl::Nanoseconds(timestamp.nanos());
}

std::string FormatStep(int64_t step, int64_t total) {
  return total > 0 ? absl::StrCat(step, "/", total) : absl::StrCat(step);
}

std::string FormatAge(const google::protobuf::Timestamp& moment, absl::Time now) {
  if (moment.seconds() == 0) return "-";
  return absl::StrCat(ShortDuration(std::max(now - ToTime(moment), absl::ZeroDuration())), " ago");
}

Table::Table(std::vector<std::string> header) {
  rows_.push_back(std::move(header));
}

void Table::Add(std::vector<std::string> row) {
  rows_.push_back(std::move(row));
}

std::string Table::Text() const {
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i] + std::string(widths[i] - Width(row[i]) + (i + 1 < row.size() ? 2 : 0), ' ');
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

}  // namespace sab::client
