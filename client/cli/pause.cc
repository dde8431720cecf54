#include <memory>

#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace sab::client {
namespace {

using Change = absl::StatusOr<v1::Job> (Client::*)(const JobId&);

int ChangeJobs(Context& context, const std::vector<std::string>& names, Change change) {
  int code = kExitOk;
  for (const std::string& name : names) {
    const auto id = ParseJobArgument(name);
    if (!id.ok()) return context.Fail(id.status());
    const auto job = (context.client().*change)(*id);
    if (!job.ok()) {
      code = context.Fail(job.status());
      continue;
    }
    if (context.quiet) continue;
    context.streams.out << job->name() << " " << StateName(job->state()) << (job->state_reason().empty() ? "" : ": ")
                        << job->state_reason() << "\n";
  }
  return code;
}

void Add(CLI::App* command, Context* context, Change change) {
  auto names = std::make_shared<std::vector<std::string>>();
  command->add_option("JOB", *names, "The jobs: jobs/{id} or the id alone")->required()->type_name(" ");
  command->callback([=] { context->action = [=] { return ChangeJobs(*context, *names, change); }; });
}

}  // namespace

void AddPause(CLI::App& app, Context* context) {
  CLI::App* command = app.add_subcommand("pause", "Take jobs off their slots, with a checkpoint, until resume");
  Add(command, context, &Client::PauseJob);
  command->footer("Examples:\n  sabctl pause jobs/3f9k2mzq\n  sabctl pause $(sabctl list --label team=x -o name)");
}

void AddResume(CLI::App& app, Context* context) {
  CLI::App* command = app.add_subcommand("resume", "Queue paused jobs again; start a job that is held");
  Add(command, context, &Client::ResumeJob);
  command->footer("Examples:\n  sabctl resume jobs/3f9k2mzq\n  sabctl resume $(sabctl list --state paused -o name)");
}

}  // namespace sab::client
