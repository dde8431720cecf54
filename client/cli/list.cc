#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "common/spec/spec_file.h"

namespace sab::client {
namespace {

struct ListOptions {
  std::string state;
  std::vector<std::string> labels;
  std::string name;
  int page_size = 100;
  bool all = false;
  std::string output;
};

absl::StatusOr<std::string> Filter(const ListOptions& options) {
  std::vector<std::string> terms;
  if (!options.state.empty()) terms.push_back("state = " + absl::AsciiStrToUpper(options.state));
  if (!options.name.empty()) terms.push_back("name = " + options.name);
  for (const std::string& label : options.labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--label ", label, ": write KEY=VALUE, for example --label team=x"));
    }
    terms.push_back(absl::StrCat("labels.", label.substr(0, equals), " = ", label.substr(equals + 1)));
  }
  return absl::StrJoin(terms, " AND ");
}

absl::StatusOr<std::vector<v1::Job>> Fetch(Context& context, const ListOptions& options, bool* more) {
  v1::ListJobsRequest request;
  request.set_page_size(options.page_size);
  const auto filter = Filter(options);
  if (!filter.ok()) return filter.status();
  request.set_filter(*filter);
  std::vector<v1::Job> jobs;
  do {
    const auto page = context.client().ListJobs(request);
    if (!page.ok()) return page.status();
    jobs.insert(jobs.end(), page->jobs().begin(), page->jobs().end());
    request.set_page_token(page->next_page_token());
  } while (options.all && !request.page_token().empty());
  *more = !request.page_token().empty();
  return jobs;
}

// "2", or "1-4" of one that may run with fewer.
std::string Replicas(const v1::ResourceSpec& resources) {
  const bool fixed = !resources.has_min_replicas() || resources.min_replicas() == resources.replicas();
  return absl::StrCat(fixed ? "" : absl::StrCat(resources.min_replicas(), "-"), resources.replicas());
}

std::string JobTable(const std::vector<v1::Job>& jobs, absl::Time now) {
  Table table({"JOB", "NAME", "STATE", "STEP", "MODEL", "TASK", "REPLICAS", "CREATED", "REASON"});
  for (const v1::Job& job : jobs) {
    const v1::JobSpec& spec = job.spec();
    const auto lower = [](const std::string& name) { return absl::AsciiStrToLower(name.substr(name.rfind('_') + 1)); };
    std::string reason = job.failure().empty() ? job.state_reason() : job.failure();
    reason = reason.substr(0, reason.find('\n'));
    if (reason.size() > 60) reason = reason.substr(0, 57) + "...";
    table.Add({job.name(), spec.name(), StateName(job.state()), FormatStep(job.step(), spec.train().steps()),
               lower(v1::ModelKind_Name(spec.model().kind())), lower(v1::TaskKind_Name(spec.task().kind())),
               Replicas(spec.resources()), FormatAge(job.create_time(), now), reason});
  }
  return table.Text();
}

int List(Context& context, const ListOptions& options) {
  bool more = false;
  const auto jobs = Fetch(context, options, &more);
  if (!jobs.ok()) return context.Fail(jobs.status());
  std::ostream& out = context.streams.out;
  if (options.output == "json") {
    std::vector<const google::protobuf::Message*> messages;
    for (const v1::Job& job : *jobs) messages.push_back(&job);
    out << ToJson("jobs", messages);
  } else if (options.output == "yaml") {
    for (const v1::Job& job : *jobs) out << "---\n" << ToYaml(job);
  } else if (options.output == "name") {
    for (const v1::Job& job : *jobs) out << job.name() << "\n";
  } else if (jobs->empty() && !context.quiet) {
    context.streams.err << "no jobs\n";
  } else {
    out << JobTable(*jobs, absl::Now());
  }
  if (more && !context.quiet) context.streams.err << "there are more: --all lists them\n";
  return kExitOk;
}

}  // namespace

void AddList(CLI::App& app, Context* context) {
  auto options = std::make_shared<ListOptions>();
  CLI::App* command = app.add_subcommand("list", "List jobs, newest first");
  command->add_option("--state", options->state, "Only jobs in this state: queued, running, succeeded ...")
      ->type_name("STATE");
  command->add_option("--label", options->labels, "Only jobs with this label. May be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--name", options->name, "Only jobs of this name")->type_name("NAME");
  command->add_option("--page-size", options->page_size, "At most so many")
      ->check(CLI::Range(1, 1000).description(""))
      ->capture_default_str()
      ->type_name("N");
  command->add_flag("--all", options->all, "All pages");
  AddOutputOption(command, &options->output, {"table", "name", "json", "yaml"});
  command->footer(
      "Examples:\n"
      "  sabctl list --state running\n"
      "  sabctl list --label team=x --all -o name\n"
      "  sabctl list -o json | jq '.jobs[].name'");
  command->callback([context, options] { context->action = [context, options] { return List(*context, *options); }; });
}

}  // namespace sab::client
