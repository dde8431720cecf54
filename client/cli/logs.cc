#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"

namespace sab::client {
namespace {

struct LogOptions {
  std::string job;
  bool follow = false;
  int rank = -1;
  int tail = 0;
};

int Logs(Context& context, const LogOptions& options) {
  const auto id = ParseJobArgument(options.job);
  if (!id.ok()) return context.Fail(id.status());
  v1::TailLogsRequest request;
  request.set_job(id->name());
  if (options.rank >= 0) request.set_rank(options.rank);
  request.set_tail_lines(options.tail);
  request.set_follow(options.follow);
  int64_t attempt = 0;
  const absl::Status status = context.client().TailLogs(request, [&](const v1::LogLine& line) {
    std::ostream& out = context.streams.out;
    if (line.attempt() != attempt && line.attempt() > 1 && !context.quiet) {
      context.streams.err << "--- attempt " << line.attempt() << "\n";
    }
    attempt = line.attempt();
    if (options.rank < 0) out << "[" << line.rank() << "] ";
    out << line.text() << "\n";
    if (options.follow) out.flush();
  });
  return status.ok() ? kExitOk : context.Fail(status);
}

}  // namespace

void AddLogs(CLI::App& app, Context* context) {
  auto options = std::make_shared<LogOptions>();
  CLI::App* command = app.add_subcommand("logs", "Show what the trainers printed");
  AddJobArgument(command, &options->job);
  command->add_flag("-f,--follow", options->follow, "Go on until the job is final");
  command->add_option("--rank", options->rank, "Only this rank; lines then have no [rank] before them")
      ->check(CLI::NonNegativeNumber.description(""))
      ->type_name("N");
  command->add_option("--tail", options->tail, "Only the last so many lines")
      ->check(CLI::PositiveNumber.description(""))
      ->type_name("N");
  command->footer("Examples:\n  sabctl logs jobs/3f9k2mzq --tail 50\n  sabctl logs 3f9k2mzq -f --rank 0");
  command->callback([context, options] { context->action = [context, options] { return Logs(*context, *options); }; });
}

}  // namespace sab::client
