#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace sab::client {
namespace {

// "3 of 8", "3" without a quota.
std::string Use(const v1::QueueSlots& slots) {
  return slots.has_quota() ? absl::StrCat(slots.in_use(), " of ", slots.quota()) : absl::StrCat(slots.in_use());
}

std::string QueueTable(const std::vector<v1::Queue>& queues) {
  Table table({"QUEUE", "WEIGHT", "MAX PRIORITY", "WAITING", "RUNNING", "CPU", "CUDA", "CPU AVG", "CUDA AVG", "SHARE"});
  for (const v1::Queue& queue : queues) {
    std::map<std::string, v1::QueueSlots> slots;
    for (const v1::QueueSlots& kind : queue.slots()) slots[kind.device()] = kind;
    table.Add({queue.name(), FormatNumber(queue.weight()), absl::StrCat(queue.max_priority()),
               absl::StrCat(queue.waiting_jobs()), absl::StrCat(queue.running_jobs()), Use(slots["cpu"]),
               Use(slots["cuda"]), FormatNumber(slots["cpu"].average_use()), FormatNumber(slots["cuda"].average_use()),
               FormatNumber(queue.share())});
  }
  return table.Text();
}

int ListQueues(Context& context, const std::string& output) {
  const auto queues = context.client().ListQueues();
  if (!queues.ok()) return context.Fail(queues.status());
  std::ostream& out = context.streams.out;
  if (output == "json") {
    std::vector<const google::protobuf::Message*> messages;
    for (const v1::Queue& queue : *queues) messages.push_back(&queue);
    out << ToJson("queues", messages);
  } else if (output == "yaml") {
    for (const v1::Queue& queue : *queues) out << "---\n" << ToYaml(queue);
  } else if (output == "name") {
    for (const v1::Queue& queue : *queues) out << queue.name() << "\n";
  } else {
    out << QueueTable(*queues);
  }
  return kExitOk;
}

}  // namespace

void AddQueue(CLI::App& app, Context* context) {
  CLI::App* group = app.add_subcommand("queue", "Look at the queues");
  group->require_subcommand(1);
  auto output = std::make_shared<std::string>();
  CLI::App* list = group->add_subcommand("list", "List the queues: quotas, slots in use now and of late, share");
  list->fallthrough();
  AddOutputOption(list, output.get(), {"table", "name", "json", "yaml"});
  list->footer("Examples:\n  sabctl queue list\n  sabctl queue list -o json | jq '.queues[].share'");
  list->callback([context, output] { context->action = [context, output] { return ListQueues(*context, *output); }; });
  group->footer("Examples:\n  sabctl queue list");
}

}  // namespace sab::client
