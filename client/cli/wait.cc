#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/progress.h"

namespace sab::client {
namespace {

struct WaitOptions {
  std::string job;
  std::string timeout;
};

int Wait(Context& context, const WaitOptions& options) {
  const auto id = ParseJobArgument(options.job);
  if (!id.ok()) return context.Fail(id.status());
  const absl::Time deadline =
      options.timeout.empty() ? absl::InfiniteFuture() : absl::Now() + *ParseDuration(options.timeout);
  v1::Job last;
  const auto job = context.client().WatchJob(
      *id, [&](const v1::Job& seen) { last = seen; }, deadline);
  if (absl::IsDeadlineExceeded(job.status())) {
    context.PrintError(absl::StrCat(
        id->name(), " is ", last.name().empty() ? "not known to be final" : StateName(last.state()), " after ",
        options.timeout, " (step ", last.step(), " of ", last.spec().train().steps(), "); it goes on"));
    return kExitTimedOut;
  }
  if (!job.ok()) return context.Fail(job.status());
  if (!context.quiet) {
    for (const std::string& line : Summary(*job)) context.streams.out << line << "\n";
  }
  return ExitCodeOf(job->state());
}

}  // namespace

void AddWait(CLI::App& app, Context* context) {
  auto options = std::make_shared<WaitOptions>();
  CLI::App* command = app.add_subcommand("wait", "Wait until a job is final");
  AddJobArgument(command, &options->job);
  command->add_option("--timeout", options->timeout, "Give up after this time, with exit code 4")
      ->check(IsDuration())
      ->type_name("DURATION");
  command->footer(
      "Ends with the job's exit code: 0 succeeded, 1 failed, 3 cancelled; 4 timed out.\n\nExamples:\n"
      "  sabctl wait jobs/3f9k2mzq --timeout 5m\n"
      "  job=$(sabctl submit job.yaml -o name) && sabctl wait $job && sabctl checkpoint download $job --to out");
  command->callback([context, options] { context->action = [context, options] { return Wait(*context, *options); }; });
}

}  // namespace sab::client
