#include "common/checkpoint/checkpoint.h"

#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/api/download.h"
#include "client/cli/checkpoint_argument.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/progress.h"
#include "common/base/memory_sizes.h"

namespace sab::client {
namespace {

struct CheckpointOptions {
  std::string job;
  int64_t step = -1;
  std::string to;
  bool force = false;
  std::string output;
};

int List(Context& context, const CheckpointOptions& options) {
  const auto id = ParseJobArgument(options.job);
  if (!id.ok()) return context.Fail(id.status());
  const auto checkpoints = context.client().ListCheckpoints(*id);
  if (!checkpoints.ok()) return context.Fail(checkpoints.status());
  std::ostream& out = context.streams.out;
  if (options.output == "json") {
    std::vector<const google::protobuf::Message*> messages;
    for (const v1::Checkpoint& checkpoint : *checkpoints) messages.push_back(&checkpoint);
    out << ToJson("checkpoints", messages);
  } else if (options.output == "yaml") {
    for (const v1::Checkpoint& checkpoint : *checkpoints) out << "---\n" << ToYaml(checkpoint);
  } else if (options.output == "name") {
    for (const v1::Checkpoint& checkpoint : *checkpoints) out << checkpoint.name() << "\n";
  } else if (checkpoints->empty()) {
    if (!context.quiet) context.streams.err << id->name() << " has no checkpoint yet\n";
  } else {
    Table table({"CHECKPOINT", "STEP", "ATTEMPT", "EVAL LOSS", "SIZE", "CREATED"});
    for (const v1::Checkpoint& checkpoint : *checkpoints) {
      table.Add({checkpoint.name(), absl::StrCat(checkpoint.step()), absl::StrCat(checkpoint.attempt()),
                 checkpoint.has_eval_loss() ? FormatNumber(checkpoint.eval_loss()) : "-",
                 FormatBytes(checkpoint.size_bytes()), FormatAge(checkpoint.create_time(), absl::Now())});
    }
    out << table.Text();
  }
  return kExitOk;
}

int Download(Context& context, const CheckpointOptions& options) {
  const auto checkpoint =
      FindCheckpoint(context.client(), options.step < 0 ? options.job : absl::StrCat(options.job, "@", options.step));
  if (!checkpoint.ok()) return context.Fail(checkpoint.status());
  const bool live = context.streams.err_is_terminal && !context.quiet;
  DownloadOptions download{.to = options.to, .force = options.force};
  int shown = -1;
  download.on_progress = [&](int64_t done, int64_t total) {
    const double fraction = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
    if (!live || static_cast<int>(fraction * 100) == shown) return;
    shown = static_cast<int>(fraction * 100);
    context.streams.err << "\r\x1b[K" << Bar(fraction, 30) << " " << FormatBytes(done) << " of " << FormatBytes(total)
                        << std::flush;
  };
  const absl::Status status = DownloadCheckpoint(context.client(), *checkpoint, download);
  if (live) context.streams.err << "\r\x1b[K" << std::flush;
  if (!status.ok()) return context.Fail(status);
  if (!context.quiet) {
    context.streams.out << checkpoint->name() << " (step " << checkpoint->step() << ", "
                        << FormatBytes(checkpoint->size_bytes()) << ") lies verified in " << options.to << "\n";
  }
  return kExitOk;
}

// All of a job's stored checkpoints, or the one named; the first damaged one is what the command fails with.
int VerifyStored(Context& context, const std::string& what) {
  std::vector<v1::Checkpoint> wanted;
  if (const auto name = ParseCheckpointName(what); name.ok()) {
    wanted.emplace_back().set_name(name->name());
  } else {
    const auto id = ParseJobArgument(what);
    if (!id.ok()) return context.Fail(id.status());
    auto listed = context.client().ListCheckpoints(*id);
    if (!listed.ok()) return context.Fail(listed.status());
    wanted = *std::move(listed);
  }
  absl::Status first;
  for (const v1::Checkpoint& checkpoint : wanted) {
    const auto verified = context.client().VerifyCheckpoint(*ParseCheckpointName(checkpoint.name()));
    if (!context.quiet) {
      context.streams.out << checkpoint.name() << ": "
                          << (verified.ok() ? "every file fits its digest" : std::string(verified.status().message()))
                          << "\n";
    }
    if (first.ok()) first = verified.status();
  }
  return first.ok() ? kExitOk : context.Fail(first);
}

int Verify(Context& context, const std::string& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error) &&
      (ParseCheckpointName(folder).ok() || ParseJobArgument(folder).ok())) {
    return VerifyStored(context, folder);
  }
  const auto checkpoint = VerifyCheckpoint(folder);
  if (!checkpoint.ok()) return context.Fail(checkpoint.status());
  if (context.quiet) return kExitOk;
  Table table({"FILE", "SIZE", "SHA-256"});
  for (const v1::CheckpointFile& file : checkpoint->files()) {
    table.Add({file.path(), FormatBytes(file.size_bytes()), file.sha256()});
  }
  context.streams.out << table.Text() << checkpoint->name() << ", step " << checkpoint->step()
                      << ": every file fits its digest\n";
  return kExitOk;
}

void AddList(CLI::App* group, Context* context) {
  auto options = std::make_shared<CheckpointOptions>();
  CLI::App* command = group->add_subcommand("list", "List a job's checkpoints, newest first");
  command->fallthrough();
  AddJobArgument(command, &options->job);
  AddOutputOption(command, &options->output, {"table", "name", "json", "yaml"});
  command->footer("Examples:\n  sabctl checkpoint list jobs/3f9k2mzq");
  command->callback([context, options] { context->action = [context, options] { return List(*context, *options); }; });
}

void AddDownload(CLI::App* group, Context* context) {
  auto options = std::make_shared<CheckpointOptions>();
  CLI::App* command = group->add_subcommand("download", "Fetch a checkpoint into a folder and verify it");
  command->fallthrough();
  command->add_option("JOB", options->job, kCheckpointHelp)->required()->type_name(" ");
  command->add_option("--step", options->step, "That of this step (the latest otherwise)")
      ->check(CLI::NonNegativeNumber.description(""))
      ->type_name("N");
  command->add_option("--to", options->to, "The folder that becomes the checkpoint; created if missing")
      ->required()
      ->type_name("DIR");
  command->add_flag("--force", options->force, "Replace a checkpoint that lies there");
  command->footer(
      "Files are checked against their SHA-256; a damaged checkpoint is refused. A download that was cut off goes on "
      "where it\n"
      "was when the command is repeated.\n\nExamples:\n"
      "  sabctl checkpoint download jobs/3f9k2mzq --to out\n"
      "  sabctl checkpoint download 3f9k2mzq@500 --to out-500\n"
      "  python3 -c 'import safetensors.numpy as s; print(s.load_file(\"out/model.safetensors\").keys())'");
  command->callback(
      [context, options] { context->action = [context, options] { return Download(*context, *options); }; });
}

void AddVerify(CLI::App* group, Context* context) {
  auto folder = std::make_shared<std::string>();
  CLI::App* command =
      group->add_subcommand("verify", "Check every file: of a folder on this machine, or as the service stores it");
  command->fallthrough();
  command->add_option("WHAT", *folder, "A folder; or a checkpoint's name; or a job, for all it has")
      ->required()
      ->type_name(" ");
  command->footer(
      "Examples:\n  sabctl checkpoint verify out\n  sabctl checkpoint verify 3f9k2mzq\n"
      "  sabctl checkpoint verify jobs/3f9k2mzq/checkpoints/000000000500-a1");
  command->callback([context, folder] { context->action = [context, folder] { return Verify(*context, *folder); }; });
}

}  // namespace

void AddCheckpoint(CLI::App& app, Context* context) {
  CLI::App* group = app.add_subcommand("checkpoint", "List, fetch and verify checkpoints");
  group->require_subcommand(1);
  group->footer(
      "Examples:\n  sabctl checkpoint list JOB\n  sabctl checkpoint download JOB --to out\n  sabctl checkpoint verify "
      "out");
  AddList(group, context);
  AddDownload(group, context);
  AddVerify(group, context);
}

}  // namespace sab::client
