#include "common/spec/yaml_section.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sab::spec {

void YamlSectionReader::Add(const std::string& field, const YAML::Node& node, const std::string& reason) {
  violations.push_back({field, reason, node.Mark().line + 1});
}

bool YamlSectionReader::CheckKeys(const std::string& path, const YAML::Node& node, const std::set<std::string>& known) {
  if (!node.IsMap()) {
    Add(path, node, "must be a section of `key: value` lines");
    return false;
  }
  for (const auto& pair : node) {
    const std::string key = pair.first.IsScalar() ? pair.first.Scalar() : "";
    if (known.contains(key)) continue;
    Add(absl::StrCat(path, ".", key), pair.first, absl::StrCat("unknown key; there are ", absl::StrJoin(known, ", ")));
  }
  return true;
}

}  // namespace sab::spec
