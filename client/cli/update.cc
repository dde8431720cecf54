#include <memory>
#include <optional>

#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "common/base/status.h"

namespace sab::client {
namespace {

struct UpdateOptions {
  std::string job;
  std::optional<int64_t> priority, max_restarts;
  std::optional<bool> preemptible;
  std::optional<std::string> time_limit;
};

int Update(Context& context, const UpdateOptions& options) {
  const auto id = ParseJobArgument(options.job);
  if (!id.ok()) return context.Fail(id.status());
  v1::UpdateJobRequest request;
  request.set_name(id->name());
  if (options.priority) request.set_priority(*options.priority);
  if (options.max_restarts) request.set_max_restarts(*options.max_restarts);
  if (options.preemptible) request.set_preemptible(*options.preemptible);
  if (options.time_limit) request.set_time_limit(*options.time_limit == "none" ? "" : *options.time_limit);
  const auto job = context.client().UpdateJob(request);
  if (!job.ok()) return context.Fail(job.status());
  if (context.quiet) return kExitOk;
  const v1::QueueSpec& queue = job->spec().queue();
  context.streams.out << job->name() << " " << StateName(job->state()) << ": priority " << queue.priority()
                      << ", max_restarts " << queue.max_restarts()
                      << (queue.preemptible() ? ", preemptible" : ", not preemptible") << ", time limit "
                      << (queue.time_limit().empty() ? "none" : queue.time_limit()) << "\n";
  return kExitOk;
}

}  // namespace

void AddUpdate(CLI::App& app, Context* context) {
  auto options = std::make_shared<UpdateOptions>();
  CLI::App* command = app.add_subcommand("update", "Change a job's place in the queue");
  AddJobArgument(command, &options->job);
  auto* group = command->add_option_group("settings");
  group->add_option("--priority", options->priority, "queue.priority, 0 to 100")->type_name("N");
  group->add_option("--max-restarts", options->max_restarts, "queue.max_restarts")->type_name("N");
  group->add_option("--preemptible", options->preemptible, "queue.preemptible, true or false")->type_name("BOOL");
  group->add_option("--time-limit", options->time_limit, "queue.time_limit; none takes it away")->type_name("DURATION");
  group->require_option();
  command->footer("Examples:\n  sabctl update jobs/3f9k2mzq --priority 80\n  sabctl update 3f9k2mzq --time-limit 4h");
  command->callback([=] { context->action = [=] { return Update(*context, *options); }; });
}

}  // namespace sab::client
