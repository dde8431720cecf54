#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "common/base/status.h"
#include "common/spec/spec_file.h"

namespace sab::client {
namespace {

struct UpdateOptions {
  std::string job;
  std::optional<int64_t> priority, max_restarts;
  std::optional<bool> preemptible;
  std::optional<std::string> time_limit;
  std::vector<std::string> settings;
};

// Reads "train.learning_rate=1e-4" into the request, beside what the job has: a setting may need its section.
absl::Status AddSettings(const std::vector<std::string>& settings, const v1::Job& job, v1::UpdateJobRequest* request) {
  *request->mutable_spec() = job.spec();
  for (const std::string& assignment : settings) {
    SAB_RETURN_IF_ERROR(Annotate(spec::ApplyOverride(assignment, request->mutable_spec()), "--set " + assignment));
    request->mutable_update_mask()->add_paths(assignment.substr(0, assignment.find('=')));
  }
  return absl::OkStatus();
}

// What the last change of a job that trains means for it.
std::string ChangeText(const v1::Job& job) {
  if (job.changes().empty()) return "";
  const v1::SpecChange& last = *job.changes().rbegin();
  return absl::StrCat(absl::StrJoin(last.fields(), ", "),
                      last.has_after_step() ? absl::StrCat(": from step ", last.after_step() + 1, " on")
                                            : ": from the next step on, see `sabctl get`",
                      "\n");
}

int Update(Context& context, const UpdateOptions& options) {
  const auto id = ParseJobArgument(options.job);
  if (!id.ok()) return context.Fail(id.status());
  v1::UpdateJobRequest request;
  request.set_name(id->name());
  if (options.priority) request.set_priority(*options.priority);
  if (options.max_restarts) request.set_max_restarts(*options.max_restarts);
  if (options.preemptible) request.set_preemptible(*options.preemptible);
  if (options.time_limit) request.set_time_limit(*options.time_limit == "none" ? "" : *options.time_limit);
  if (!options.settings.empty()) {
    const auto present = context.client().GetJob(*id);
    if (!present.ok()) return context.Fail(present.status());
    if (const absl::Status status = AddSettings(options.settings, *present, &request); !status.ok())
      return context.Fail(status);
  }
  const auto job = context.client().UpdateJob(request);
  if (!job.ok()) return context.Fail(job.status());
  if (context.quiet) return kExitOk;
  if (!options.settings.empty()) context.streams.out << ChangeText(*job);
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
  CLI::App* command =
      app.add_subcommand("update", "Change settings of a job that is not done: its training, its place in the queue");
  AddJobArgument(command, &options->job);
  auto* group = command->add_option_group("settings");
  group->add_option("--priority", options->priority, "queue.priority, 0 to 100")->type_name("N");
  group->add_option("--max-restarts", options->max_restarts, "queue.max_restarts")->type_name("N");
  group->add_option("--preemptible", options->preemptible, "queue.preemptible, true or false")->type_name("BOOL");
  group->add_option("--time-limit", options->time_limit, "queue.time_limit; none takes it away")->type_name("DURATION");
  group
      ->add_option("--set", options->settings,
                   "A setting that no parameter's shape depends on: train.learning_rate=1e-4. May be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  group->require_option();
  command->footer(
      "A job that runs takes new settings in between two steps, all its ranks between the same two, and loses no step; "
      "`sabctl get`\n"
      "shows which. What can be changed: docs/TUNING.md.\n\nExamples:\n"
      "  sabctl update jobs/3f9k2mzq --priority 80\n"
      "  sabctl update 3f9k2mzq --set train.learning_rate=1e-4 --set model.k_top=10\n"
      "  sabctl update 3f9k2mzq --set train.steps=40000 --time-limit 4h");
  command->callback([=] { context->action = [=] { return Update(*context, *options); }; });
}

}  // namespace sab::client
