#include <algorithm>
#include <memory>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace sab::client {
namespace {

void PrintOutlook(const v1::ExplainJobResponse& answer, std::ostream& out) {
  if (answer.queue_position() > 0) out << "place in the queue: " << answer.queue_position() << "\n";
  if (answer.must_end_size() > 0) out << "waits for slots of: " << absl::StrJoin(answer.must_end(), " ") << "\n";
  if (answer.has_expected_start()) {
    const absl::Duration wait = std::max(absl::ZeroDuration(), ToTime(answer.expected_start()) - absl::Now());
    out << "expected to start: in " << ShortDuration(wait) << "\n";
  } else if (!answer.expected_start_unknown().empty()) {
    out << "expected to start: not known, " << answer.expected_start_unknown() << "\n";
  }
}

int Explain(Context& context, const std::string& name, const std::string& output) {
  const auto id = ParseJobArgument(name);
  if (!id.ok()) return context.Fail(id.status());
  const auto answer = context.client().ExplainJob(*id);
  if (!answer.ok()) return context.Fail(answer.status());
  if (output == "json") {
    context.streams.out << ToJson(*answer);
  } else if (output == "yaml") {
    context.streams.out << ToYaml(*answer);
  } else {
    context.streams.out << id->name() << ": " << answer->reason() << "\n";
    PrintOutlook(*answer, context.streams.out);
  }
  return kExitOk;
}

}  // namespace

void AddExplain(CLI::App& app, Context* context) {
  auto job = std::make_shared<std::string>();
  auto output = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("explain", "Say why a job is where it is, and what it waits for");
  AddJobArgument(command, job.get());
  AddOutputOption(command, output.get(), {"table", "json", "yaml"});
  command->footer("Examples:\n  sabctl explain jobs/3f9k2mzq");
  command->callback([context, job, output] {
    context->action = [context, job, output] { return Explain(*context, *job, *output); };
  });
}

}  // namespace sab::client
