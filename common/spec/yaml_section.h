#pragma once

#include <yaml-cpp/yaml.h>

#include <set>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace sab::spec {

// What readers of small YAML files and sections, which no message describes, have in common: they go on after a mistake
// and tell all of them, each with its line.
class YamlSectionReader {
 public:
  std::vector<FieldViolation> violations;

 protected:
  void Add(const std::string& field, const YAML::Node& node, const std::string& reason);

  // False: `node` is no section. Keys that are not among `known` are violations.
  bool CheckKeys(const std::string& path, const YAML::Node& node, const std::set<std::string>& known);
};

}  // namespace sab::spec
