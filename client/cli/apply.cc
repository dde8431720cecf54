// evaluate, predict, sample: jobs that work with a checkpoint's parameters, waited for.
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/api/download.h"
#include "client/cli/checkpoint_argument.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "common/spec/spec_file.h"

namespace sab::client {
namespace {

namespace fs = std::filesystem;

struct ApplyOptions {
  std::string checkpoint;
  std::vector<int64_t> lengths;
  int64_t sequences = 0;
  std::vector<std::string> data;
  std::string input, output_file;
  std::string prompt;
  int64_t length = 200, seed = 1;
  double temperature = 1;
  std::vector<std::string> overrides;
  bool detach = false;
  std::string output;
};

// Paths are read on the workers, wherever the command is given.
std::string Absolute(const std::string& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

// The checkpoint's job as it is, for `action`: model, data and what decides about them, without its training.
absl::StatusOr<v1::JobSpec> SpecFor(Context& context, const v1::Checkpoint& checkpoint, v1::ActionKind action) {
  SAB_ASSIGN_OR_RETURN(const v1::Job job, context.client().GetJob(ParseCheckpointName(checkpoint.name())->job));
  v1::JobSpec spec = job.spec();
  const std::string word = absl::AsciiStrToLower(v1::ActionKind_Name(action).substr(sizeof("ACTION_KIND_") - 1));
  spec.set_name(absl::StrCat(word, "-", spec.name()).substr(0, 63));
  spec.set_action(action);
  spec.clear_labels();
  spec.clear_curriculum();
  spec.clear_checkpoint();
  spec.clear_init_from();
  spec.clear_halving();
  spec.mutable_init_from()->set_checkpoint(checkpoint.name());
  spec.mutable_train()->clear_steps();
  spec.mutable_train()->clear_schedule();
  spec.mutable_eval()->clear_stop_when();
  spec.mutable_eval()->clear_every();
  spec.mutable_eval()->clear_final_lengths();
  spec.mutable_eval()->clear_final_sequences();
  spec.mutable_resources()->set_replicas(1);
  spec.mutable_resources()->clear_min_replicas();
  const v1::QueueSpec queue = spec.queue();
  spec.clear_queue();
  spec.mutable_queue()->set_name(queue.name());
  spec.mutable_queue()->set_priority(queue.priority());
  return spec;
}

// Says on a terminal how far the job is, in place.
class Status {
 public:
  Status(Context& context, int64_t total, std::string unit)
      : context_(context),
        live_(context.streams.err_is_terminal && !context.quiet),
        total_(total),
        unit_(std::move(unit)) {}
  ~Status() {
    if (live_) context_.streams.err << "\r\x1b[K" << std::flush;
  }
  void Show(const v1::Job& job) {
    if (!live_) return;
    std::string text = absl::StrCat(job.name(), " ", StateName(job.state()));
    if (job.state() == v1::JOB_STATE_RUNNING) {
      absl::StrAppend(&text, " ", job.step(), total_ > 0 ? absl::StrCat(" of ", total_) : "", " ", unit_);
    } else if (!job.state_reason().empty()) {
      absl::StrAppend(&text, ": ", job.state_reason());
    }
    context_.streams.err << "\r\x1b[K" << text.substr(0, static_cast<size_t>(context_.streams.width)) << std::flush;
  }

 private:
  Context& context_;
  const bool live_;
  const int64_t total_;
  const std::string unit_;
};

// Submits and waits. The exit code of what went wrong in `code` when there is no job that succeeded.
absl::StatusOr<v1::Job> RunJob(Context& context, v1::JobSpec spec, const ApplyOptions& options, int64_t total,
                               const std::string& unit) {
  for (const std::string& assignment : options.overrides)
    SAB_RETURN_IF_ERROR(Annotate(spec::ApplyOverride(assignment, &spec), "--set " + assignment));
  SAB_ASSIGN_OR_RETURN(const v1::CreateJobResponse created, context.client().CreateJob(spec));
  if (options.detach) return created.job();
  Status status(context, total, unit);
  return context.client().WatchJob(*ParseJobName(created.job().name()), [&](const v1::Job& job) { status.Show(job); });
}

// Ok: go on with the result. Otherwise `code` is what the command ends with.
bool Succeeded(Context& context, const ApplyOptions& options, const absl::StatusOr<v1::Job>& job, int* code) {
  if (!job.ok()) {
    *code = context.Fail(job.status());
    return false;
  }
  *code = kExitOk;
  if (options.detach) {
    context.streams.out << job->name() << "\n" << std::flush;
    return false;
  }
  if (job->state() == v1::JOB_STATE_SUCCEEDED) return true;
  context.PrintError(absl::StrCat(job->name(), " ", StateName(job->state()), ": ",
                                  job->failure().empty() ? job->state_reason() : job->failure()));
  *code = ExitCodeOf(job->state());
  return false;
}

// --- evaluate

using Figures = std::map<int64_t, std::vector<std::pair<std::string, double>>>;  // by length

absl::StatusOr<Figures> FetchFigures(Client& client, const std::string& job) {
  Figures figures;
  v1::ListMetricsRequest request;
  request.set_job(job);
  request.set_split("eval");
  SAB_RETURN_IF_ERROR(client.ForEachPoint(request, [&](const v1::MetricPoint& point) {
    figures[point.length()].emplace_back(point.name(), point.value());
  }));
  return figures;
}

std::string FigureTable(const Figures& figures) {
  std::vector<std::string> header = {"LENGTH"};
  for (const auto& [name, value] : figures.begin()->second) header.push_back(absl::AsciiStrToUpper(name));
  Table table(header);
  for (const auto& [length, row] : figures) {
    std::vector<std::string> cells = {length > 0 ? absl::StrCat(length) : "-"};
    for (const auto& [name, value] : row) cells.push_back(FormatNumber(value));
    table.Add(std::move(cells));
  }
  return table.Text();
}

std::string FigureJson(const v1::Job& job, int64_t step, const Figures& figures) {
  std::string text = absl::StrCat("{\"job\": \"", job.name(), "\", \"checkpoint\": \"",
                                  job.spec().init_from().checkpoint(), "\", \"step\": ", step, ", \"figures\": [");
  bool first = true;
  for (const auto& [length, row] : figures) {
    for (const auto& [name, value] : row) {
      absl::StrAppend(&text, first ? "" : ", ", "{\"length\": ", length, ", \"name\": \"", name,
                      "\", \"value\": ", JsonNumber(value), "}");
      first = false;
    }
  }
  return text + "]}\n";
}

// --data says what is evaluated on: the text; or the file of images or arrays, and the labels' after it.
absl::Status SetData(const std::vector<std::string>& data, v1::JobSpec* spec) {
  if (data.empty()) return absl::OkStatus();
  const bool image = spec->task().kind() == v1::TASK_KIND_IMAGE;
  if (data.size() > (image ? 2 : 1)) {
    return absl::InvalidArgumentError(image ? "--data: takes images and, in IDX format, their labels"
                                            : "--data: takes one file for this task");
  }
  switch (spec->task().kind()) {
    case v1::TASK_KIND_TEXT:
      spec->mutable_task()->set_valid_path(Absolute(data[0]));
      return absl::OkStatus();
    case v1::TASK_KIND_IMAGE:
    case v1::TASK_KIND_TENSOR:
      spec->mutable_eval()->set_path(Absolute(data[0]));
      spec->mutable_eval()->clear_labels_path();
      if (data.size() > 1) spec->mutable_eval()->set_labels_path(Absolute(data[1]));
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError("--data: this task makes its own data; leave it out");
  }
}

int EvaluateCheckpoint(Context& context, const ApplyOptions& options) {
  const auto checkpoint = FindCheckpoint(context.client(), options.checkpoint);
  if (!checkpoint.ok()) return context.Fail(checkpoint.status());
  auto spec = SpecFor(context, *checkpoint, v1::ACTION_KIND_EVALUATE);
  if (!spec.ok()) return context.Fail(spec.status());
  if (!options.lengths.empty()) {
    spec->mutable_eval()->clear_lengths();
    for (const int64_t length : options.lengths) spec->mutable_eval()->add_lengths(length);
  }
  if (options.sequences > 0) spec->mutable_eval()->set_sequences(options.sequences);
  if (const absl::Status status = SetData(options.data, &*spec); !status.ok()) return context.Fail(status);
  const int64_t total = spec->eval().sequences() * std::max(1, spec->eval().lengths_size());
  const bool sized = spec->eval().lengths_size() > 0;  // files may hold fewer
  const auto job = RunJob(context, *spec, options, sized ? total : 0, "sequences");
  int code = kExitOk;
  if (!Succeeded(context, options, job, &code)) return code;
  const auto figures = FetchFigures(context.client(), job->name());
  if (!figures.ok()) return context.Fail(figures.status());
  if (figures->empty()) return context.Fail(absl::DataLossError(absl::StrCat(job->name(), " reported no figures")));
  if (options.output == "json") {
    context.streams.out << FigureJson(*job, checkpoint->step(), *figures);
  } else {
    if (!context.quiet)
      context.streams.out << checkpoint->name() << ", step " << checkpoint->step() << ", by " << job->name() << "\n";
    context.streams.out << FigureTable(*figures);
  }
  context.streams.out.flush();
  return kExitOk;
}

// --- predict, sample

// A folder that goes with this object.
class Scratch {
 public:
  Scratch() {
    std::string path = (fs::temp_directory_path() / "sabctl-XXXXXX").string();
    if (mkdtemp(path.data()) != nullptr) path_ = path;
  }
  ~Scratch() {
    std::error_code error;
    if (!path_.empty()) fs::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The file `name` of a finished job's result, verified.
absl::StatusOr<std::string> FetchResult(Context& context, const v1::Job& job, std::string_view name) {
  const Scratch scratch;
  if (scratch.path().empty()) return absl::UnavailableError("cannot make a folder for temporary files: see TMPDIR");
  SAB_ASSIGN_OR_RETURN(const v1::Checkpoint result, FindCheckpoint(context.client(), job.name()));
  SAB_RETURN_IF_ERROR(DownloadCheckpoint(context.client(), result, {.to = scratch.path() + "/result"}));
  return ReadFile(absl::StrCat(scratch.path(), "/result/", std::string(name)));
}

int PredictInputs(Context& context, const ApplyOptions& options) {
  const auto checkpoint = FindCheckpoint(context.client(), options.checkpoint);
  if (!checkpoint.ok()) return context.Fail(checkpoint.status());
  auto spec = SpecFor(context, *checkpoint, v1::ACTION_KIND_PREDICT);
  if (!spec.ok()) return context.Fail(spec.status());
  spec->mutable_predict()->set_input(Absolute(options.input));
  const auto job = RunJob(context, *spec, options, 0, "rows");
  int code = kExitOk;
  if (!Succeeded(context, options, job, &code)) return code;
  const auto content = FetchResult(context, *job, kPredictionFile);
  if (!content.ok()) return context.Fail(content.status());
  if (const absl::Status status = WriteFileDurably(options.output_file, *content); !status.ok())
    return context.Fail(status);
  if (!context.quiet) {
    context.streams.out << job->step() << " rows of " << options.input << " by " << checkpoint->name() << " lie in "
                        << options.output_file << "\n";
  }
  context.streams.out.flush();
  return kExitOk;
}

int SampleText(Context& context, const ApplyOptions& options) {
  const auto checkpoint = FindCheckpoint(context.client(), options.checkpoint);
  if (!checkpoint.ok()) return context.Fail(checkpoint.status());
  auto spec = SpecFor(context, *checkpoint, v1::ACTION_KIND_SAMPLE);
  if (!spec.ok()) return context.Fail(spec.status());
  v1::SampleSpec* sample = spec->mutable_sample();
  sample->set_prompt(options.prompt);
  sample->set_length(options.length);
  sample->set_temperature(options.temperature);
  sample->set_seed(options.seed);
  const auto job = RunJob(context, *spec, options, options.length, "bytes");
  int code = kExitOk;
  if (!Succeeded(context, options, job, &code)) return code;
  const auto text = FetchResult(context, *job, kSampleFile);
  if (!text.ok()) return context.Fail(text.status());
  if (options.output == "json") {
    const nlohmann::json json = {
        {"job", job->name()}, {"checkpoint", checkpoint->name()}, {"prompt", options.prompt}, {"text", *text}};
    context.streams.out << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  } else {
    context.streams.out << (context.quiet ? "" : options.prompt) << *text << "\n";
  }
  context.streams.out.flush();
  return kExitOk;
}

// What the three commands share.
void AddCommon(CLI::App* command, ApplyOptions* options) {
  command->add_option("CHECKPOINT", options->checkpoint, kCheckpointHelp)->required()->type_name(" ");
  command
      ->add_option(
          "--set", options->overrides,
          "Overrides a setting that is otherwise the checkpoint's job's: resources.device=cuda. May be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_flag("--detach", options->detach, "Print the job's name and do not wait for it");
}

}  // namespace

void AddEvaluate(CLI::App& app, Context* context) {
  auto options = std::make_shared<ApplyOptions>();
  CLI::App* command = app.add_subcommand("evaluate", "Evaluate a checkpoint, at other lengths or on other data");
  AddCommon(command, options.get());
  AddOutputOption(command, &options->output, {"table", "json"});
  command->add_option("--lengths", options->lengths, "Lengths, for tasks that have one: 100,200,5000")
      ->delimiter(',')
      ->type_name("N,N");
  command->add_option("--sequences", options->sequences, "Sequences a length")
      ->check(CLI::PositiveNumber.description(""))
      ->type_name("N");
  command
      ->add_option("--data", options->data,
                   "Files on the workers to evaluate on, for tasks that read some: the text, the arrays, or images and "
                   "their labels")
      ->type_name("FILE");
  command->footer(
      "What is not given is taken from the checkpoint's job. The job is scheduled as any other; `sabctl metrics` has "
      "its "
      "figures too.\n\nExamples:\n"
      "  sabctl evaluate 3f9k2mzq --lengths 100,200,5000\n"
      "  sabctl evaluate 3f9k2mzq@2000 --sequences 4096 -o json\n"
      "  sabctl evaluate 3f9k2mzq --data /data/held-out.txt");
  command->callback(
      [context, options] { context->action = [context, options] { return EvaluateCheckpoint(*context, *options); }; });
}

void AddPredict(CLI::App& app, Context* context) {
  auto options = std::make_shared<ApplyOptions>();
  CLI::App* command = app.add_subcommand("predict", "Compute a checkpoint's outputs for a file of inputs");
  AddCommon(command, options.get());
  command
      ->add_option("--input", options->input,
                   "Safetensors file on the workers: inputs F32 (N,T,I), or I64 (N,T) of symbols; lengths I64 (N)")
      ->required()
      ->type_name("FILE");
  CLI::Option* output = command
                            ->add_option("-o,--output", options->output_file,
                                         "Safetensors file on this machine: outputs (N,O), or (N,T,O) where every step "
                                         "has a target; classes, the place of the largest")
                            ->type_name("FILE");
  command->footer(
      "Examples:\n  sabctl predict 3f9k2mzq --input /data/inputs.safetensors --output predictions.safetensors");
  command->callback([context, options, output] {
    if (output->count() == 0 && !options->detach) throw CLI::RequiredError("--output");
    context->action = [context, options] { return PredictInputs(*context, *options); };
  });
}

void AddSample(CLI::App& app, Context* context) {
  auto options = std::make_shared<ApplyOptions>();
  CLI::App* command = app.add_subcommand("sample", "Let a checkpoint of task text write on a text");
  AddCommon(command, options.get());
  AddOutputOption(command, &options->output, {"text", "json"});
  command->add_option("--prompt", options->prompt, "What it reads first")->required()->type_name("TEXT");
  command->add_option("--length", options->length, "Bytes to write")->capture_default_str()->type_name("N");
  command->add_option("--temperature", options->temperature, "Above 1 is wilder; 0 always takes the likeliest byte")
      ->capture_default_str()
      ->type_name("T");
  command->add_option("--seed", options->seed, "The same seed writes the same text")
      ->capture_default_str()
      ->type_name("S");
  command->footer(
      "With --quiet the prompt is not printed.\n\nExamples:\n"
      "  sabctl sample 3f9k2mzq --prompt 'Once upon ' --length 500 --temperature 0.7 --seed 3");
  command->callback(
      [context, options] { context->action = [context, options] { return SampleText(*context, *options); }; });
}

}  // namespace sab::client
