#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "common/base/status.h"

namespace sab::client {
namespace {

struct CompareOptions {
  std::vector<std::string> jobs;
  std::string metric;
  std::string output;
};

// A job with the figures of its last evaluation.
struct Column {
  v1::Job job;
  std::map<std::string, std::map<int64_t, double>> figures;  // name -> length -> value
};

absl::StatusOr<Column> Fetch(Client& client, const std::string& name) {
  SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobArgument(name));
  Column column;
  SAB_ASSIGN_OR_RETURN(column.job, client.GetJob(id));
  v1::ListMetricsRequest request;
  request.set_job(id.name());
  request.set_split("eval");
  // In order of step: what comes later is of a later evaluation.
  SAB_RETURN_IF_ERROR(client.ForEachPoint(
      request, [&](const v1::MetricPoint& point) { column.figures[point.name()][point.length()] = point.value(); }));
  return column;
}

// The figure that tells most about these jobs.
std::string ChooseMetric(const std::vector<Column>& columns) {
  for (const char* name : {"accuracy", "bits", "mse"}) {
    if (std::all_of(columns.begin(), columns.end(),
                    [&](const Column& column) { return column.figures.count(name) > 0; }))
      return name;
  }
  return "loss";
}

std::string Seconds(const v1::Job& job) {
  if (!job.has_start_time()) return "-";
  const absl::Time end = job.has_end_time() ? ToTime(job.end_time()) : absl::Now();
  return absl::StrCat(absl::ToInt64Seconds(end - ToTime(job.start_time())));
}

std::vector<int64_t> Lengths(const std::vector<Column>& columns, const std::string& metric) {
  std::vector<int64_t> lengths;
  for (const Column& column : columns) {
    if (const auto it = column.figures.find(metric); it != column.figures.end()) {
      for (const auto& [length, value] : it->second) lengths.push_back(length);
    }
  }
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  return lengths;
}

// One row a job, one column a length.
Table MakeTable(const std::vector<Column>& columns, const std::string& metric) {
  const std::vector<int64_t> lengths = Lengths(columns, metric);
  std::vector<std::string> header = {"JOB", "NAME", "STATE", "UPDATES", "SECONDS"};
  for (int64_t length : lengths) header.push_back(length > 0 ? absl::StrCat(metric, "@", length) : metric);
  Table table(header);
  for (const Column& column : columns) {
    std::vector<std::string> row = {column.job.name(), column.job.spec().name(), StateName(column.job.state()),
                                    absl::StrCat(column.job.step()), Seconds(column.job)};
    for (int64_t length : lengths) {
      const auto figures = column.figures.find(metric);
      const bool known = figures != column.figures.end() && figures->second.count(length) > 0;
      row.push_back(known ? FormatNumber(figures->second.at(length)) : "-");
    }
    table.Add(std::move(row));
  }
  return table;
}

std::string JsonLines(const std::vector<Column>& columns, const std::string& metric) {
  std::string text;
  for (const Column& column : columns) {
    const auto figures = column.figures.find(metric);
    if (figures == column.figures.end()) continue;
    for (const auto& [length, value] : figures->second) {
      const nlohmann::json name = column.job.spec().name();
      absl::StrAppend(&text, "{\"job\": \"", column.job.name(), "\", \"job_name\": ", name.dump(), ", \"state\": \"",
                      StateName(column.job.state()), "\", \"updates\": ", column.job.step(), ", \"name\": \"", metric,
                      "\", \"length\": ", length, ", \"value\": ", JsonNumber(value), "}\n");
    }
  }
  return text;
}

int Compare(Context& context, const CompareOptions& options) {
  std::vector<Column> columns;
  for (const std::string& name : options.jobs) {
    auto column = Fetch(context.client(), name);
    if (!column.ok()) return context.Fail(column.status());
    columns.push_back(*std::move(column));
  }
  const std::string metric = options.metric.empty() ? ChooseMetric(columns) : options.metric;
  if (Lengths(columns, metric).empty()) {
    context.PrintError(absl::StrCat("none of these jobs has an evaluation of ", metric, " yet"));
    return kExitFailed;
  }
  context.streams.out << (options.output == "jsonl" ? JsonLines(columns, metric) : MakeTable(columns, metric).Text());
  return kExitOk;
}

}  // namespace

void AddCompare(CLI::App& app, Context* context) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App* command = app.add_subcommand("compare", "Lay the last evaluations of several jobs side by side");
  command->add_option("JOB", options->jobs, "The jobs: jobs/{id} or the id alone")->required()->type_name(" ");
  command
      ->add_option("--metric", options->metric,
                   "The figure (accuracy, bits, mse or loss otherwise, the first they all have)")
      ->type_name("NAME");
  AddOutputOption(command, &options->output, {"table", "jsonl"});
  command->footer(
      "Examples:\n"
      "  sabctl compare jobs/3f9k2mzq jobs/7xw4bn2p\n"
      "  sabctl compare $(sabctl list --label study=copy -o name) --metric loss");
  command->callback(
      [context, options] { context->action = [context, options] { return Compare(*context, *options); }; });
}

}  // namespace sab::client
