#include "server/scheduling/queue_file.h"

#include <yaml-cpp/yaml.h>

#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/spec/yaml_section.h"

namespace sab::server {
namespace {

class QueueReader : public spec::YamlSectionReader {
 public:
  std::vector<QueueConfig> queues;

  void Read(const YAML::Node& root) {
    if (!root.IsMap() || root.size() != 1 || !root["queues"] || !root["queues"].IsSequence()) {
      return Add("queues", root, "must be the one key of the file, with a list of queues below it");
    }
    for (const YAML::Node& node : root["queues"]) ReadQueue(node);
  }

 private:
  template <typename T>
  void Number(const std::string& field, const YAML::Node& node, double least, double most, T* value) {
    if (!node) return;
    double number = 0;
    if (node.IsScalar() && YAML::convert<double>::decode(node, number) && number >= least && number <= most &&
        static_cast<double>(static_cast<T>(number)) == number) {
      *value = static_cast<T>(number);
    } else {
      Add(field, node, absl::StrCat("must be a number from ", least, " to ", most));
    }
  }

  void ReadQueue(const YAML::Node& node) {
    const std::string path = absl::StrCat("queues[", queues.size(), "]");
    QueueConfig queue;
    if (CheckKeys(path, node, {"name", "weight", "quota", "max_priority"})) {
      queue.name = node["name"] && node["name"].IsScalar() ? node["name"].Scalar() : "";
      if (queue.name.empty() || queue.name.size() > 63) Add(path + ".name", node, "must have 1 to 63 characters");
      if (!names_.insert(queue.name).second) Add(path + ".name", node, absl::StrCat(queue.name, " is given twice"));
      Number(path + ".weight", node["weight"], 0.001, 1e6, &queue.weight);
      Number(path + ".max_priority", node["max_priority"], 0, 100, &queue.max_priority);
      if (node["quota"] && CheckKeys(path + ".quota", node["quota"], {"cpu", "cuda"})) {
        ReadQuota(path + ".quota.cpu", node["quota"]["cpu"], &queue.quota[0]);
        ReadQuota(path + ".quota.cuda", node["quota"]["cuda"], &queue.quota[1]);
      }
    }
    queues.push_back(std::move(queue));
  }

  void ReadQuota(const std::string& field, const YAML::Node& node, std::optional<int64_t>* quota) {
    if (!node) return;
    int64_t slots = 0;
    Number(field, node, 0, 1e9, &slots);
    *quota = slots;
  }

  std::set<std::string> names_;
};

}  // namespace

absl::StatusOr<std::vector<QueueConfig>> ParseQueues(std::string_view text) {
  QueueReader reader;
  try {
    reader.Read(YAML::Load(std::string(text)));
  } catch (const YAML::Exception& error) {
    return InvalidFields({{"", absl::StrCat("cannot be read as YAML: ", error.msg), error.mark.line + 1}});
  }
  if (!reader.violations.empty()) return InvalidFields(reader.violations);
  return std::move(reader.queues);
}

absl::StatusOr<std::vector<QueueConfig>> ReadQueues(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  auto queues = ParseQueues(text.str());
  if (!queues.ok()) return Annotate(queues.status(), path);
  return queues;
}

}  // namespace sab::server
