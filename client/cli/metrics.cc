#include <algorithm>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/chart.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace sab::client {
namespace {

struct MetricsOptions {
  std::string job;
  bool follow = false;
  std::string split;
  std::string name;
  std::string plot;
  std::string output;
};

std::string JsonLine(const v1::MetricPoint& point) {
  // Names come from the service and hold no character that JSON would escape; values may be what JSON has no number
  // for.
  return absl::StrCat("{\"step\": ", point.step(), ", \"split\": \"", point.split(), "\", \"name\": \"", point.name(),
                      "\", \"length\": ", point.length(), ", \"value\": ", JsonNumber(point.value()), "}\n");
}

// Writes figures as they come, in one of the formats; the table's columns are fixed so that it can be followed.
class Writer {
 public:
  Writer(std::ostream& out, const std::string& output) : out_(out), output_(output) {
    if (output_ == "csv") out_ << "step,split,name,length,value\n";
    if (output_ == "table") out_ << Row("STEP", "SPLIT", "NAME", "LENGTH", "VALUE");
  }
  void Write(const v1::MetricPoint& point) {
    if (output_ == "jsonl") {
      out_ << JsonLine(point);
    } else if (output_ == "csv") {
      out_ << point.step() << "," << point.split() << "," << point.name() << "," << point.length() << ","
           << absl::StrCat(Unquoted(JsonNumber(point.value()))) << "\n";
    } else {
      out_ << Row(absl::StrCat(point.step()), point.split(), point.name(), absl::StrCat(point.length()),
                  FormatNumber(point.value()));
    }
  }

 private:
  static std::string Unquoted(std::string text) {
    text.erase(std::remove(text.begin(), text.end(), '"'), text.end());
    return text;
  }
  static std::string Row(std::string step, std::string split, std::string name, std::string length, std::string value) {
    step.resize(std::max<size_t>(step.size(), 9), ' ');
    split.resize(std::max<size_t>(split.size(), 7), ' ');
    name.resize(std::max<size_t>(name.size(), 24), ' ');
    length.resize(std::max<size_t>(length.size(), 7), ' ');
    return absl::StrCat(step, " ", split, " ", name, " ", length, " ", value, "\n");
  }

  std::ostream& out_;
  const std::string output_;
};

absl::Status ForEachPoint(Context& context, const JobId& id, const MetricsOptions& options,
                          const std::function<void(const v1::MetricPoint&)>& use) {
  if (options.follow) {
    return context.client().WatchMetrics(id, [&](const auto& points) {
      for (const v1::MetricPoint& point : points) {
        const bool wanted = (options.split.empty() || point.split() == options.split) &&
                            (options.name.empty() || point.name() == options.name);
        if (wanted) use(point);
      }
      context.streams.out.flush();
    });
  }
  v1::ListMetricsRequest request;
  request.set_job(id.name());
  request.set_split(options.split);
  request.set_metric(options.name);
  return context.client().ForEachPoint(request, use);
}

int Plot(Context& context, const JobId& id, MetricsOptions options) {
  options.name = options.plot;
  options.follow = false;
  std::map<std::string, Series> series;
  const absl::Status status = ForEachPoint(context, id, options, [&](const v1::MetricPoint& point) {
    const std::string name = absl::StrCat(point.split(), " ", point.name(),
                                          point.length() > 0 ? absl::StrCat(" length ", point.length()) : "");
    series[name].emplace_back(static_cast<double>(point.step()), point.value());
  });
  if (!status.ok()) return context.Fail(status);
  if (series.empty()) {
    context.PrintError(absl::StrCat(id.name(), " has no figure named ", options.plot, "; `sabctl metrics ", id.name(),
                                    "` lists them"));
    return kExitFailed;
  }
  for (const auto& [name, points] : series) {
    context.streams.out << name << "\n" << Chart(points, std::min(context.streams.width, 100), 12) << "\n";
  }
  return kExitOk;
}

int Metrics(Context& context, const MetricsOptions& options) {
  const auto id = ParseJobArgument(options.job);
  if (!id.ok()) return context.Fail(id.status());
  if (!options.plot.empty()) return Plot(context, *id, options);
  Writer writer(context.streams.out, options.output);
  const absl::Status status =
      ForEachPoint(context, *id, options, [&](const v1::MetricPoint& point) { writer.Write(point); });
  context.streams.out.flush();
  return status.ok() ? kExitOk : context.Fail(status);
}

}  // namespace

void AddMetrics(CLI::App& app, Context* context) {
  auto options = std::make_shared<MetricsOptions>();
  CLI::App* command = app.add_subcommand("metrics", "Print a job's figures, in order of step");
  AddJobArgument(command, &options->job);
  command->add_flag("-f,--follow", options->follow, "Go on as figures arrive, until the job is final");
  command->add_option("--split", options->split, "Only this split: train, eval or system")->type_name("SPLIT");
  command->add_option("--name", options->name, "Only this figure: loss, accuracy, ...")->type_name("NAME");
  command->add_option("--plot", options->plot, "Draw this figure over the steps instead")->type_name("NAME");
  AddOutputOption(command, &options->output, {"table", "jsonl", "csv"});
  command->footer(
      "A line of jsonl is {\"step\", \"split\", \"name\", \"length\", \"value\"}; length 0 is the training length, and "
      "values that are\n"
      "not finite are the strings \"NaN\", \"Infinity\", \"-Infinity\".\n\nExamples:\n"
      "  sabctl metrics jobs/3f9k2mzq --split eval\n"
      "  sabctl metrics 3f9k2mzq -o jsonl --follow | jq -c 'select(.name == \"accuracy\")'\n"
      "  sabctl metrics 3f9k2mzq --plot loss");
  command->callback(
      [context, options] { context->action = [context, options] { return Metrics(*context, *options); }; });
}

}  // namespace sab::client
