#include "client/cli/commands.h"
#include "client/cli/context.h"

namespace sab::client {
namespace {

constexpr char kFooter[] =
    R"(Exit codes: 0 done, 1 failed, 2 usage or a refused job file, 3 cancelled, 4 timed out, 5 no coordinator.

Examples:
  sabctl up --workers 2                    a coordinator and two workers on this machine
  sabctl submit job.yaml --watch           train and look on
  sabctl metrics JOB -o jsonl              the figures, one JSON object a line
  sabctl checkpoint download JOB --to DIR  the trained parameters, verified

`sabctl COMMAND --help` shows a command's options and examples.)";

void AddCommands(CLI::App& app, Context* context) {
  AddSubmit(app, context);
  AddList(app, context);
  AddGet(app, context);
  AddWatch(app, context);
  AddWait(app, context);
  AddCancel(app, context);
  AddPause(app, context);
  AddResume(app, context);
  AddUpdate(app, context);
  AddDelete(app, context);
  AddLogs(app, context);
  AddMetrics(app, context);
  AddCompare(app, context);
  AddCheckpoint(app, context);
  AddEvaluate(app, context);
  AddPredict(app, context);
  AddSample(app, context);
  AddWorker(app, context);
  AddExplain(app, context);
  AddQueue(app, context);
  AddUp(app, context);
  AddCompletion(app, context);
  AddVersion(app, context);
}

}  // namespace

int RunSabctl(const std::vector<std::string>& arguments, Streams streams,
              const std::map<std::string, std::string>& environment) {
  Context context(streams);
  if (auto it = environment.find("SAB_ADDRESS"); it != environment.end() && !it->second.empty()) {
    context.address = it->second;
  }
  CLI::App app(
      "Trains sequence models with Sparse Attentive Backtracking on a cluster: submits jobs, follows them, fetches "
      "checkpoints.",
      "sabctl");
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(kFooter);
  app.set_version_flag("--version", "sabctl " SAB_VERSION);
  app.add_option("--address", context.address, "The coordinator, HOST:PORT (environment: SAB_ADDRESS)")
      ->capture_default_str()
      ->type_name("HOST:PORT");
  app.add_option("--connect-timeout", context.connect_timeout,
                 "How long to wait for a coordinator that does not answer")
      ->check(IsDuration())
      ->capture_default_str()
      ->type_name("DURATION");
  app.add_flag("-q,--quiet", context.quiet, "Print results and errors alone");
  AddCommands(app, &context);
  try {
    // CLI11 takes the arguments last first.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error, streams.out, streams.err);
      return kExitOk;
    }
    context.PrintError(error.what());
    const auto chosen = app.get_subcommands();
    context.PrintError("see `sabctl" + (chosen.empty() ? "" : " " + chosen.front()->get_name()) + " --help`");
    return kExitUsage;
  }
  try {
    return context.action();
  } catch (const std::exception& error) {
    context.PrintError(std::string("unexpected: ") + error.what() + "; please report this");
    return kExitFailed;
  }
}

}  // namespace sab::client
