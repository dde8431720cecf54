#pragma once

#include <CLI/CLI.hpp>

#include "client/cli/context.h"

// One function for each command, in the file of its name: adds the command to `app`, and when it is chosen sets
// `context->action`. Both outlive the parsed command line.
namespace sab::client {

void AddSubmit(CLI::App& app, Context* context);
void AddList(CLI::App& app, Context* context);
void AddGet(CLI::App& app, Context* context);
void AddWatch(CLI::App& app, Context* context);
void AddWait(CLI::App& app, Context* context);
void AddCancel(CLI::App& app, Context* context);
void AddDelete(CLI::App& app, Context* context);
void AddLogs(CLI::App& app, Context* context);
void AddMetrics(CLI::App& app, Context* context);
void AddCheckpoint(CLI::App& app, Context* context);
void AddWorker(CLI::App& app, Context* context);
void AddCompare(CLI::App& app, Context* context);
void AddEvaluate(CLI::App& app, Context* context);
void AddPredict(CLI::App& app, Context* context);
void AddSample(CLI::App& app, Context* context);
void AddExplain(CLI::App& app, Context* context);
void AddPause(CLI::App& app, Context* context);
void AddResume(CLI::App& app, Context* context);
void AddUpdate(CLI::App& app, Context* context);
void AddQueue(CLI::App& app, Context* context);
void AddUp(CLI::App& app, Context* context);
void AddCompletion(CLI::App& app, Context* context);
void AddVersion(CLI::App& app, Context* context);

// Follows a job to its end with live progress, and returns its exit code. What `watch` and `submit --watch` share.
int WatchUntilFinal(Context& context, const JobId& job);

}  // namespace sab::client
