#include <memory>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace sab::client {
namespace {

std::string WorkerTable(const std::vector<v1::Worker>& workers, absl::Time now) {
  Table table({"WORKER", "STATE", "HOST", "SLOTS", "FREE", "DEVICE", "JOBS", "VERSION", "HEARD"});
  for (const v1::Worker& worker : workers) {
    std::set<std::string> devices, jobs;
    int free = 0;
    for (const v1::Slot& slot : worker.slots()) {
      devices.insert(slot.device_name().empty() ? slot.device() : slot.device_name());
      if (slot.job().empty()) {
        ++free;
      } else {
        jobs.insert(slot.job());
      }
    }
    table.Add({worker.name(), absl::StrCat(StateName(worker.state()), worker.draining() ? " DRAINING" : ""),
               worker.host(), absl::StrCat(worker.slots_size()), absl::StrCat(free), absl::StrJoin(devices, ", "),
               jobs.empty() ? "-" : absl::StrJoin(jobs, " "), worker.version(),
               FormatAge(worker.last_sync_time(), now)});
  }
  return table.Text();
}

int ListWorkers(Context& context, const std::string& output) {
  const auto workers = context.client().ListWorkers();
  if (!workers.ok()) return context.Fail(workers.status());
  std::ostream& out = context.streams.out;
  if (output == "json") {
    std::vector<const google::protobuf::Message*> messages;
    for (const v1::Worker& worker : *workers) messages.push_back(&worker);
    out << ToJson("workers", messages);
  } else if (output == "yaml") {
    for (const v1::Worker& worker : *workers) out << "---\n" << ToYaml(worker);
  } else if (output == "name") {
    for (const v1::Worker& worker : *workers) out << worker.name() << "\n";
  } else if (workers->empty() && !context.quiet) {
    context.streams.err << "no workers; start one with `sab-worker --coordinator " << context.address << "`\n";
  } else {
    out << WorkerTable(*workers, absl::Now());
  }
  return kExitOk;
}

// "workers/{id}" or the id alone.
absl::StatusOr<WorkerId> ParseWorkerArgument(const std::string& text) {
  return ParseWorkerName(absl::StrContains(text, "/") ? text : absl::StrCat("workers/", text));
}

int ChangeDraining(Context& context, const std::string& name, bool draining, bool stop_jobs) {
  const auto id = ParseWorkerArgument(name);
  if (!id.ok()) return context.Fail(id.status());
  const auto worker = draining ? context.client().DrainWorker(*id, stop_jobs) : context.client().UndrainWorker(*id);
  if (!worker.ok()) return context.Fail(worker.status());
  if (!context.quiet) {
    context.streams.out << worker->name() << (draining ? " gets no new work" : " gets work again") << "\n";
  }
  return kExitOk;
}

void AddDrain(CLI::App* group, Context* context) {
  auto name = std::make_shared<std::string>();
  auto stop_jobs = std::make_shared<bool>(false);
  CLI::App* drain = group->add_subcommand("drain", "Place nothing new on a worker, until undrain; its jobs go on");
  drain->fallthrough();
  drain->add_option("WORKER", *name, "The worker: workers/{id} or the id alone")->required()->type_name(" ");
  drain->add_flag("--stop-jobs", *stop_jobs, "Its jobs write a checkpoint, leave, and go on elsewhere");
  drain->footer("Examples:\n  sabctl worker drain node-7\n  sabctl worker drain node-7 --stop-jobs");
  drain->callback(
      [=] { context->action = [=] { return ChangeDraining(*context, *name, /*draining=*/true, *stop_jobs); }; });
  CLI::App* undrain = group->add_subcommand("undrain", "Place jobs on a worker again");
  undrain->fallthrough();
  undrain->add_option("WORKER", *name, "The worker: workers/{id} or the id alone")->required()->type_name(" ");
  undrain->footer("Examples:\n  sabctl worker undrain node-7");
  undrain->callback([=] {
    context->action = [=] { return ChangeDraining(*context, *name, /*draining=*/false, /*stop_jobs=*/false); };
  });
}

}  // namespace

void AddWorker(CLI::App& app, Context* context) {
  CLI::App* group = app.add_subcommand("worker", "Look at the workers, drain one");
  group->require_subcommand(1);
  auto output = std::make_shared<std::string>();
  CLI::App* list = group->add_subcommand("list", "List the workers, their slots and what occupies them");
  list->fallthrough();
  AddOutputOption(list, output.get(), {"table", "name", "json", "yaml"});
  list->footer("Examples:\n  sabctl worker list\n  sabctl worker list -o json | jq '.workers[].slots'");
  list->callback([context, output] { context->action = [context, output] { return ListWorkers(*context, *output); }; });
  AddDrain(group, context);
  group->footer("Examples:\n  sabctl worker list");
}

}  // namespace sab::client
