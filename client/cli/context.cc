#include "client/cli/context.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/format.h"

namespace sab::client {

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnreachable;
    default:
      return kExitFailed;
  }
}

int ExitCodeOf(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_SUCCEEDED:
      return kExitOk;
    case v1::JOB_STATE_CANCELLED:
      return kExitCancelled;
    default:
      return kExitFailed;
  }
}

Client& Context::client() {
  if (client_ == nullptr) {
    ClientOptions options;
    options.address = address;
    options.connect_timeout = *ParseDuration(connect_timeout);
    client_ = std::make_unique<Client>(std::move(options));
  }
  return *client_;
}

void Context::PrintError(std::string_view text) {
  for (absl::string_view line : absl::StrSplit(absl::string_view(text.data(), text.size()), '\n', absl::SkipEmpty())) {
    streams.err << "sabctl: " << line << "\n";
  }
  streams.err.flush();
}

int Context::Fail(const absl::Status& status) {
  const std::string text(status.message());
  PrintError(text.empty() ? absl::StatusCodeToString(status.code()) : text);
  if (absl::IsUnimplemented(status))
    PrintError("the coordinator is of another version; `sabctl version` shows this one's");
  return ExitCodeOf(status);
}

absl::StatusOr<JobId> ParseJobArgument(std::string_view text) {
  if (text.find('/') == std::string_view::npos) return ParseJobName("jobs/" + std::string(text));
  if (auto checkpoint = ParseCheckpointName(text); checkpoint.ok()) return checkpoint->job;
  return ParseJobName(text);
}

CLI::Option* AddOutputOption(CLI::App* command, std::string* output, const std::vector<std::string>& formats) {
  *output = formats.front();
  std::string description = "Output format:";
  for (const std::string& format : formats) absl::StrAppend(&description, " ", format);
  return command->add_option("-o,--output", *output, description)
      ->check(CLI::IsMember(formats).description(""))
      ->type_name("FORMAT")
      ->capture_default_str();
}

CLI::Option* AddJobArgument(CLI::App* command, std::string* job) {
  return command->add_option("JOB", *job, "The job: jobs/{id} or the id alone")->required()->type_name(" ");
}

CLI::Validator IsDuration() {
  return CLI::Validator(
      [](std::string& text) {
        const auto duration = ParseDuration(text);
        return duration.ok() ? std::string() : std::string(duration.status().message());
      },
      "");
}

}  // namespace sab::client
