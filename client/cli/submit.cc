#include <fstream>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/checkpoint_argument.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/sweep.h"
#include "common/base/memory_sizes.h"
#include "common/base/status.h"
#include "common/spec/spec_file.h"
#include "common/spec/validate.h"

namespace sab::client {
namespace {

struct SubmitOptions {
  std::string file;
  std::vector<std::string> overrides;
  std::string from;
  bool with_optimizer = false;
  std::string sweep;
  bool dry_run = false;
  bool watch = false;
  std::string output;
};

// More is refused unread: no job file is that long.
constexpr size_t kMostBytes = (1 << 20) + 1;

std::string ReadUpTo(std::istream& in, size_t most) {
  std::string text(most, '\0');
  in.read(text.data(), static_cast<std::streamsize>(most));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

absl::StatusOr<std::string> ReadJobFile(Context& context, const std::string& file) {
  if (file == "-") return ReadUpTo(context.streams.in, kMostBytes);
  std::ifstream in(file, std::ios::binary);
  std::string text = ReadUpTo(in, kMostBytes);
  // A folder opens well and cannot be read; a file that ends has eof set.
  if (text.empty() && !in.eof()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": cannot be read; name a job file in YAML or JSON, or - for standard input"));
  }
  return text;
}

// The line of a field, or of the nearest setting around it: "eval.lengths[1]" stands where "eval.lengths" does. 0: not
// in the file.
int LineOf(std::string field, const std::map<std::string, int>& lines) {
  while (!field.empty()) {
    if (const auto it = lines.find(field); it != lines.end()) return it->second;
    const size_t cut = field.find_last_of(".[");
    if (cut == std::string::npos) return 0;
    field.resize(cut);
  }
  return 0;
}

// One line a violation, "job.yaml:7: train.steps: must be …", and what to do next.
int Refuse(Context& context, const std::string& file, const absl::Status& status,
           const std::map<std::string, int>& lines) {
  const std::vector<FieldViolation> violations = ViolationsOf(status);
  if (violations.empty()) return context.Fail(status);
  const std::string shown = file == "-" ? "standard input" : file;
  for (const FieldViolation& violation : violations) {
    absl::string_view reason = violation.reason;
    int line = violation.line;
    // What was found while reading carries its line in the text.
    if (line == 0 && absl::ConsumePrefix(&reason, "line ")) {
      const size_t colon = reason.find(": ");
      if (colon != absl::string_view::npos && absl::SimpleAtoi(reason.substr(0, colon), &line)) {
        reason.remove_prefix(colon + 2);
      } else {
        reason = violation.reason;
      }
    }
    if (line == 0) line = LineOf(violation.field, lines);
    context.PrintError(absl::StrCat(shown, line > 0 ? absl::StrCat(":", line) : "", ": ", violation.field,
                                    violation.field.empty() ? "" : ": ", reason));
  }
  context.PrintError(absl::StrCat(violations.size(), violations.size() == 1 ? " problem" : " problems",
                                  "; nothing was submitted. Correct the file and submit it again"));
  return kExitUsage;
}

bool IsLoopback(absl::string_view address) {
  return absl::StartsWith(address, "127.") || absl::StartsWith(address, "localhost:") ||
         absl::StartsWith(address, "[::1]") || absl::StartsWith(address, "unix:");
}

// What the coordinator would refuse, found before it is asked; the paths too when it runs on this machine.
std::vector<FieldViolation> Check(const Context& context, const v1::JobSpec& spec) {
  std::vector<FieldViolation> violations = spec::Validate(spec);
  if (IsLoopback(context.address)) {
    for (FieldViolation& violation : spec::CheckPaths(spec)) violations.push_back(std::move(violation));
  }
  return violations;
}

std::string DryRunText(const v1::CreateJobResponse& response) {
  const v1::CostEstimate& cost = response.cost();
  std::string text = spec::FormatYaml(response.job().spec());
  if (!text.empty() && text.back() != '\n') text += '\n';
  absl::StrAppend(&text, "\n# Predicted for each replica; nothing was submitted.\n");
  absl::StrAppend(&text, "# parameters  ", cost.parameters(), "\n");
  absl::StrAppend(&text, "# memory      ", FormatBytes(cost.peak_bytes()), " above the process's own\n");
  if (cost.placed_bytes() > 0) {
    const bool gpu = response.job().spec().resources().device() == v1::DEVICE_KIND_CUDA;
    absl::StrAppend(&text, "# placed      on ", gpu ? "a GPU" : "a CPU slot (auto: if not on a GPU)",
                    gpu ? " with at least " : " whose worker has left ", FormatBytes(cost.placed_bytes()), "\n");
  }
  absl::StrAppend(&text, "# one step    ", ShortDuration(absl::Seconds(cost.seconds_per_step())), " (",
                  FormatNumber(cost.flops_per_step()), " operations)\n");
  absl::StrAppend(&text, "# all steps   ",
                  ShortDuration(absl::Seconds(cost.seconds_per_step() *
                                              static_cast<double>(response.job().spec().train().steps()))),
                  "\n");
  if (!cost.basis().empty()) absl::StrAppend(&text, "# basis       ", cost.basis(), "\n");
  return text;
}

void Print(Context& context, const SubmitOptions& options, const v1::CreateJobResponse& response) {
  std::ostream& out = context.streams.out;
  const v1::Job& job = response.job();
  if (options.output == "json") {
    out << ToJson(options.dry_run ? static_cast<const google::protobuf::Message&>(response) : job);
  } else if (options.output == "yaml" && !options.dry_run) {
    out << spec::FormatYaml(job.spec());
  } else if (options.dry_run) {
    out << DryRunText(response);
  } else if (options.output == "name" || context.quiet) {
    out << job.name() << "\n";
  } else {
    out << job.name() << " " << StateName(job.state()) << (job.state_reason().empty() ? "" : ": ") << job.state_reason()
        << "\n";
    if (!options.watch) out << "follow it with `sabctl watch " << job.name() << "`\n";
  }
  out.flush();
}

absl::Status AddHalving(const Sweep& sweep, v1::JobSpec* spec) {
  if (!sweep.halving.has_value()) return absl::OkStatus();
  const SweepHalving& from = *sweep.halving;
  const auto trials = static_cast<int64_t>(sweep.points.size());
  v1::HalvingSpec& halving = *spec->mutable_halving();
  halving.set_trials(trials);
  halving.set_metric(from.metric);
  if (!from.mode.empty()) halving.set_mode(from.mode == "max" ? v1::HALVING_MODE_MAX : v1::HALVING_MODE_MIN);
  halving.set_factor(from.factor);
  for (const Rung& rung : RungsOf(from, trials, spec->train().steps())) halving.add_rungs(rung.step);
  if (!halving.rungs().empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("sweep.halving.first: must be below train.steps = ", spec->train().steps(), ", got ", from.first));
}

// "the best 9 go on after step 500, 3 after step 1500".
std::string DescribeRungs(const SweepHalving& halving, int64_t trials, int64_t steps) {
  std::string text = "the best ";
  for (const Rung& rung : RungsOf(halving, trials, steps)) {
    absl::StrAppend(&text, text.back() == ' ' ? "" : ", ", rung.places, text.back() == ' ' ? " go on" : "",
                    " after step ", rung.step);
  }
  return text;
}

// The jobs of a sweep: the file's spec with what each sets, in one group. Every one is checked before the first is
// submitted.
absl::StatusOr<std::vector<v1::JobSpec>> Expand(const Context& context, v1::JobSpec base, const Sweep& sweep,
                                                const std::string& group) {
  SAB_RETURN_IF_ERROR(AddHalving(sweep, &base));
  std::vector<v1::JobSpec> specs;
  for (const SweepPoint& point : sweep.points) {
    v1::JobSpec& spec = specs.emplace_back(base);
    spec.set_name(absl::StrCat(base.name(), "-", specs.size()));
    (*spec.mutable_labels())["sweep"] = group;
    spec.mutable_queue()->set_group(group);
    if (sweep.max_parallel > 0) spec.mutable_queue()->set_max_parallel(sweep.max_parallel);
    std::string values;
    for (const auto& [field, value] : point) {
      absl::StrAppend(&values, values.empty() ? "" : " ", field, "=", value);
      if (absl::Status status = spec::ApplyOverride(absl::StrCat(field, "=", value), &spec); !status.ok()) {
        return Annotate(status, absl::StrCat("sweep, ", field, ": ", value));
      }
      (*spec.mutable_labels())[absl::StrCat("sweep.", field.substr(field.rfind('.') + 1))] = value;
    }
    if (auto violations = Check(context, spec); !violations.empty()) {
      return Annotate(InvalidFields(violations), absl::StrCat("sweep, with ", values));
    }
  }
  return specs;
}

int SubmitSweep(Context& context, const SubmitOptions& options, const v1::JobSpec& base, const Sweep& sweep) {
  if (options.watch) return context.Fail(absl::InvalidArgumentError("--watch: follows one job, not a sweep"));
  const std::string group = options.sweep.empty() ? absl::StrCat("sweep-", RandomId(6)) : options.sweep;
  const auto specs = Expand(context, base, sweep, group);
  if (!specs.ok()) return context.Fail(specs.status());
  size_t number = 0;
  for (const v1::JobSpec& spec : *specs) {
    // The same for every client that submits this job of this sweep.
    const auto response = context.client().CreateJob(spec, options.dry_run, absl::StrCat(group, ".", ++number));
    if (!response.ok()) {
      if (number > 1 && !options.dry_run)
        context.PrintError(absl::StrCat(number - 1, " of ", specs->size(),
                                        " jobs were submitted; the same command with `--sweep ", group,
                                        "` submits the rest"));
      return context.Fail(Annotate(response.status(), spec.name()));
    }
    if (options.dry_run) {
      context.streams.out << "---\n" << spec::FormatYaml(response->job().spec());
    } else {
      context.streams.out << response->job().name() << "\n";
    }
    context.streams.out.flush();
  }
  if (sweep.halving.has_value() && options.output == "table" && !context.quiet) {
    context.streams.err << specs->size() << " trials; "
                        << DescribeRungs(*sweep.halving, static_cast<int64_t>(specs->size()), base.train().steps())
                        << "\n";
  }
  if (!options.dry_run && options.output == "table" && !context.quiet) {
    context.streams.err << specs->size() << " jobs of one sweep; list them with `sabctl list --label sweep=" << group
                        << "`\n";
  }
  return kExitOk;
}

// The job file, or without one the settings of the job whose checkpoint is started from.
absl::StatusOr<std::string> ReadJob(Context& context, const SubmitOptions& options, const std::string& checkpoint) {
  if (!options.file.empty()) return ReadJobFile(context, options.file);
  SAB_ASSIGN_OR_RETURN(const v1::Job job, context.client().GetJob(ParseCheckpointName(checkpoint)->job));
  v1::JobSpec spec = job.spec();
  spec.clear_init_from();
  spec.mutable_queue()->clear_after();
  spec.mutable_queue()->clear_after_failure();
  if (spec.has_halving()) {  // it is no trial of that sweep
    spec.mutable_queue()->clear_group();
    spec.mutable_queue()->clear_max_parallel();
    spec.clear_halving();
  }
  return spec::FormatYaml(spec);
}

int Submit(Context& context, SubmitOptions options) {
  std::string checkpoint;
  if (!options.from.empty()) {
    const auto found = FindCheckpoint(context.client(), options.from);
    if (!found.ok()) return context.Fail(found.status());
    checkpoint = found->name();
    options.overrides.push_back("init_from.checkpoint=" + checkpoint);
    if (options.with_optimizer) options.overrides.push_back("init_from.optimizer=true");
  }
  const auto text = ReadJob(context, options, checkpoint);
  if (!text.ok()) return context.Fail(text.status());
  if (options.file.empty()) options.file = "the job of --from";
  const auto split = SplitSweep(*text);
  if (!split.ok()) return Refuse(context, options.file, split.status(), {});
  auto file = spec::ParseSpec(split->job);
  if (!file.ok()) return Refuse(context, options.file, file.status(), {});
  for (const std::string& assignment : options.overrides) {
    if (absl::Status status = spec::ApplyOverride(assignment, &file->spec); !status.ok()) {
      return context.Fail(Annotate(status, "--set " + assignment));
    }
    // The value no longer stands in the file.
    file->lines.erase(assignment.substr(0, assignment.find('=')));
  }
  if (const auto violations = Check(context, file->spec); !violations.empty()) {
    return Refuse(context, options.file, InvalidFields(violations), file->lines);
  }
  if (!options.sweep.empty() && !split->sweep.has_value())
    return context.Fail(absl::InvalidArgumentError("--sweep: the job file has no `sweep:` section"));
  if (split->sweep.has_value()) return SubmitSweep(context, options, file->spec, *split->sweep);
  const auto response = context.client().CreateJob(file->spec, options.dry_run);
  if (!response.ok()) return Refuse(context, options.file, response.status(), file->lines);
  Print(context, options, *response);
  if (!options.watch || options.dry_run) return kExitOk;
  return WatchUntilFinal(context, *ParseJobName(response->job().name()));
}

}  // namespace

void AddSubmit(CLI::App& app, Context* context) {
  auto options = std::make_shared<SubmitOptions>();
  CLI::App* command = app.add_subcommand("submit", "Submit a job file, or all jobs of its sweep");
  CLI::Option* file = command
                          ->add_option("FILE", options->file,
                                       "Job file, YAML or JSON; - reads standard input. Not needed with --from: then "
                                       "it is the settings of the job that the checkpoint is of")
                          ->type_name(" ");
  CLI::Option* from =
      command
          ->add_option("--from", options->from,
                       "Start from the parameters of another job's checkpoint: JOB, JOB@STEP or its name")
          ->type_name("CHECKPOINT");
  command
      ->add_flag("--with-optimizer", options->with_optimizer,
                 "With --from: take the optimiser and the step too, and go on training as that job would have")
      ->needs(from);
  command->add_option("--set", options->overrides, "Overrides a setting of the file: train.steps=500. May be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command
      ->add_option("--sweep", options->sweep,
                   "Name of the sweep, drawn if not given. A submission that was cut off is completed by the same file "
                   "with the name of its sweep")
      ->check(CLI::Validator(
          [](const std::string& name) {
            return name.empty() || name.size() > 50 ? "a name of 1 to 50 characters" : std::string();
          },
          ""))
      ->type_name("NAME");
  command->add_flag("--dry-run", options->dry_run,
                    "Check only: print every resolved setting, predicted memory and step time");
  command->add_flag("-w,--watch", options->watch, "Follow the job to its end; ends with its exit code");
  AddOutputOption(command, &options->output, {"table", "name", "json", "yaml"});
  command->footer(
      "Examples:\n"
      "  sabctl submit copy.yaml --watch\n"
      "  sabctl submit copy.yaml --set train.steps=500 --set eval.lengths=[20,40]\n"
      "  sabctl submit copy.yaml --dry-run\n"
      "  sabctl submit copy.yaml --from 3f9k2mzq@500      step 0, with the parameters of that checkpoint\n"
      "  sabctl submit --from 3f9k2mzq --with-optimizer --set train.steps=40000      goes on for longer\n"
      "  sabctl submit sweep.yaml      with a `sweep:` section: one job for each of its points; with\n"
      "                                `halving: {metric: accuracy, first: 500}` in it the best third goes on\n"
      "                                after step 500\n"
      "  job=$(sabctl submit copy.yaml -o name)\n"
      "  sabctl get JOB -o yaml | sabctl submit -      the same again");
  command->callback([context, options, file, from] {
    if (file->count() == 0 && from->count() == 0) throw CLI::RequiredError("FILE or --from");
    context->action = [context, options] { return Submit(*context, *options); };
  });
}

}  // namespace sab::client
