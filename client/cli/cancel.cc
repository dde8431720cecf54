#include <memory>

#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace sab::client {
namespace {

int CancelJobs(Context& context, const std::vector<std::string>& names) {
  int code = kExitOk;
  for (const std::string& name : names) {
    const auto id = ParseJobArgument(name);
    if (!id.ok()) return context.Fail(id.status());
    const auto job = context.client().CancelJob(*id);
    if (!job.ok()) {
      code = context.Fail(job.status());
      continue;
    }
    if (!context.quiet) context.streams.out << job->name() << " " << StateName(job->state()) << "\n";
  }
  return code;
}

}  // namespace

void AddCancel(CLI::App& app, Context* context) {
  auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* command = app.add_subcommand("cancel", "End jobs; their checkpoints and figures stay");
  command->add_option("JOB", *names, "The jobs: jobs/{id} or the id alone")->required()->type_name(" ");
  command->footer("Examples:\n  sabctl cancel jobs/3f9k2mzq\n  sabctl cancel $(sabctl list --state queued -o name)");
  command->callback([context, names] { context->action = [context, names] { return CancelJobs(*context, *names); }; });
}

}  // namespace sab::client
