#include <memory>

#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace sab::client {
namespace {

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
    if (answer->queue_position() > 0) context.streams.out << "place in the queue: " << answer->queue_position() << "\n";
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
