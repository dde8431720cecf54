#include <memory>

#include "client/cli/commands.h"

namespace sab::client {
namespace {

int DeleteJobs(Context& context, const std::vector<std::string>& names) {
  int code = kExitOk;
  for (const std::string& name : names) {
    const auto id = ParseJobArgument(name);
    if (!id.ok()) return context.Fail(id.status());
    if (const absl::Status status = context.client().DeleteJob(*id); !status.ok()) {
      code = context.Fail(status);
      continue;
    }
    if (!context.quiet) context.streams.out << id->name() << " deleted\n";
  }
  return code;
}

}  // namespace

void AddDelete(CLI::App& app, Context* context) {
  auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* command = app.add_subcommand("delete", "Delete final jobs with their figures, logs and checkpoints");
  command->add_option("JOB", *names, "The jobs: jobs/{id} or the id alone")->required()->type_name(" ");
  command->footer(
      "A job that is not final is refused: cancel it first.\n\nExamples:\n"
      "  sabctl delete jobs/3f9k2mzq\n  sabctl delete $(sabctl list --state failed -o name)");
  command->callback([context, names] { context->action = [context, names] { return DeleteJobs(*context, *names); }; });
}

}  // namespace sab::client
