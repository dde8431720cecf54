#include "client/cli/sweep.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "common/spec/yaml_section.h"

namespace sab::client {
namespace {

constexpr size_t kMostJobs = 10'000;

// A range or a list that a field is drawn from.
struct Choice {
  std::string field;
  std::vector<std::string> values;  // chosen from; empty: the range
  double low = 0, high = 0;
  bool log = false, integer = false;
};

// [0, 1), the same on every machine.
double Uniform(std::mt19937_64& random) {
  return static_cast<double>(random() >> 11) * 0x1.0p-53;
}

std::string Draw(const Choice& choice, std::mt19937_64& random) {
  const double u = Uniform(random);
  if (!choice.values.empty()) {
    return choice.values[static_cast<size_t>(u * static_cast<double>(choice.values.size()))];
  }
  const double high = choice.integer ? choice.high + 1 : choice.high;
  double value = choice.low + u * (high - choice.low);
  if (choice.log) value = std::exp(std::log(choice.low) + u * (std::log(high) - std::log(choice.low)));
  if (choice.integer) return absl::StrCat(static_cast<int64_t>(std::min(choice.high, std::floor(value))));
  return absl::StrCat(value);  // six digits: the label and the setting are the same text
}

class SweepReader : public spec::YamlSectionReader {
 public:
  Sweep Read(const YAML::Node& node) {
    Sweep sweep;
    if (!CheckKeys("sweep", node, {"grid", "random", "trials", "seed", "max_parallel", "halving"})) return sweep;
    ReadGrid(node["grid"]);
    ReadRandom(node["random"]);
    if (grid_.empty() && random_.empty()) Add("sweep", node, "must have a grid or a random section with fields");
    const int64_t trials = Integer("sweep.trials", node["trials"], 1, kMostJobs).value_or(0);
    const int64_t seed = Integer("sweep.seed", node["seed"], 0, int64_t{1} << 53).value_or(1);
    if (random_.empty() != (trials == 0)) Add("sweep.trials", node, "is given with random, and only with it");
    sweep.max_parallel = Integer("sweep.max_parallel", node["max_parallel"], 1, 1'000'000).value_or(0);
    ReadHalving(node["halving"], &sweep);
    if (violations.empty()) Expand(static_cast<size_t>(std::max<int64_t>(1, trials)), seed, node, &sweep);
    return sweep;
  }

 private:
  std::optional<int64_t> Integer(const std::string& field, const YAML::Node& node, int64_t least, int64_t most) {
    int64_t value = 0;
    if (!node) return std::nullopt;
    if (node.IsScalar() && YAML::convert<int64_t>::decode(node, value) && value >= least && value <= most) return value;
    Add(field, node, absl::StrCat("must be an integer from ", least, " to ", most));
    return std::nullopt;
  }

  // The values of a list as they are written: what a job file would hold.
  std::vector<std::string> Values(const std::string& field, const YAML::Node& node) {
    std::vector<std::string> values;
    for (const YAML::Node& item : node) {
      YAML::Emitter text;
      text << YAML::Flow << item;
      values.push_back(item.IsScalar() ? item.Scalar() : std::string(text.c_str()));
    }
    if (values.empty()) Add(field, node, "must be a list such as [3, 5]");
    return values;
  }

  void ReadGrid(const YAML::Node& node) {
    if (!node) return;
    if (!node.IsMap()) return Add("sweep.grid", node, "must be a section of `field: [values]` lines");
    for (const auto& pair : node) {
      const std::string& field = pair.first.Scalar();
      if (!pair.second.IsSequence()) {
        Add("sweep.grid." + field, pair.first, "must be a list such as [3, 5]");
      } else {
        grid_.push_back({.field = field, .values = Values("sweep.grid." + field, pair.second)});
      }
    }
  }

  void ReadRandom(const YAML::Node& node) {
    if (!node) return;
    if (!node.IsMap()) return Add("sweep.random", node, "must be a section of `field: range or list` lines");
    for (const auto& pair : node) {
      Choice choice{.field = pair.first.Scalar(), .values = {}};
      const std::string path = "sweep.random." + choice.field;
      if (pair.second.IsSequence()) {
        choice.values = Values(path, pair.second);
      } else if (CheckKeys(path, pair.second, {"low", "high", "log", "integer"})) {
        ReadRange(path, pair.second, &choice);
      }
      random_.push_back(std::move(choice));
    }
  }

  void ReadRange(const std::string& path, const YAML::Node& node, Choice* choice) {
    const bool numbers = node["low"] && node["high"] && YAML::convert<double>::decode(node["low"], choice->low) &&
                         YAML::convert<double>::decode(node["high"], choice->high);
    const bool flags = (!node["log"] || YAML::convert<bool>::decode(node["log"], choice->log)) &&
                       (!node["integer"] || YAML::convert<bool>::decode(node["integer"], choice->integer));
    if (!numbers || !flags || !(choice->low < choice->high) || !std::isfinite(choice->high - choice->low) ||
        (choice->log && choice->low <= 0)) {
      Add(path, node,
          "must be {low: NUMBER, high: larger} with log: true or integer: true if wanted; log needs low above 0");
    }
  }

  void ReadHalving(const YAML::Node& node, Sweep* sweep) {
    if (!node || !CheckKeys("sweep.halving", node, {"metric", "mode", "factor", "first"})) return;
    SweepHalving halving;
    if (node["metric"] && node["metric"].IsScalar()) halving.metric = node["metric"].Scalar();
    if (halving.metric.empty()) Add("sweep.halving.metric", node, "must be given: a figure of the evaluation");
    if (const YAML::Node mode = node["mode"]) {
      halving.mode = mode.IsScalar() ? mode.Scalar() : "";
      if (halving.mode != "max" && halving.mode != "min") Add("sweep.halving.mode", mode, "must be max or min");
    }
    halving.factor = Integer("sweep.halving.factor", node["factor"], 2, kMostJobs).value_or(halving.factor);
    if (!node["first"]) Add("sweep.halving.first", node, "must be given: the step of the first rung");
    halving.first = Integer("sweep.halving.first", node["first"], 1, int64_t{1} << 53).value_or(1);
    for (const std::vector<Choice>* choices : {&grid_, &random_}) {
      for (const Choice& choice : *choices) {
        if (choice.field != "train.steps") continue;
        Add("sweep.halving", node, "needs the same train.steps in all trials: take train.steps out of the sweep");
      }
    }
    sweep->halving = std::move(halving);
  }

  void Expand(size_t trials, int64_t seed, const YAML::Node& node, Sweep* sweep) {
    double jobs = static_cast<double>(trials);
    for (const Choice& choice : grid_) jobs *= static_cast<double>(choice.values.size());
    if (jobs > static_cast<double>(kMostJobs)) {
      return Add("sweep", node, absl::StrCat("gives ", jobs, " jobs; at most ", kMostJobs));
    }
    if (sweep->halving.has_value() && jobs < 2) return Add("sweep.halving", node, "needs at least two jobs");
    std::mt19937_64 random(static_cast<uint64_t>(seed));
    for (size_t trial = 0; trial < trials; ++trial) {
      SweepPoint drawn;
      for (const Choice& choice : random_) drawn.emplace_back(choice.field, Draw(choice, random));
      AddCombinations(0, drawn, sweep);
    }
  }

  void AddCombinations(size_t next, const SweepPoint& point, Sweep* sweep) {
    if (next == grid_.size()) return sweep->points.push_back(point);
    for (const std::string& value : grid_[next].values) {
      SweepPoint longer = point;
      longer.emplace_back(grid_[next].field, value);
      AddCombinations(next + 1, longer, sweep);
    }
  }

  std::vector<Choice> grid_, random_;
};

// Lines [first, end) of the section: its key at the margin and all that is indented below it. Empty: there is none.
std::pair<size_t, size_t> FindSection(const std::vector<std::string>& lines) {
  size_t first = 0;
  while (first < lines.size() && !absl::StartsWith(lines[first], "sweep:")) ++first;
  size_t end = std::min(first + 1, lines.size());
  while (end < lines.size() && (lines[end].empty() || lines[end][0] == ' ' || lines[end][0] == '#')) ++end;
  return {first, end};
}

}  // namespace

absl::StatusOr<SweepFile> SplitSweep(std::string_view text) {
  std::vector<std::string> lines = absl::StrSplit(std::string(text), '\n');
  const auto [first, end] = FindSection(lines);
  if (first == lines.size()) return SweepFile{std::string(text), std::nullopt};
  // Empty lines before it, so that its nodes know their lines.
  std::string section(first, '\n');
  for (size_t i = first; i < end; ++i) {
    absl::StrAppend(&section, lines[i], "\n");
    lines[i].clear();
  }
  SweepFile file{absl::StrJoin(lines, "\n"), std::nullopt};
  SweepReader reader;
  try {
    file.sweep = reader.Read(YAML::Load(section)["sweep"]);
  } catch (const YAML::Exception& error) {
    return InvalidFields({{"sweep", absl::StrCat("cannot be read as YAML: ", error.msg), error.mark.line + 1}});
  }
  if (!reader.violations.empty()) return InvalidFields(reader.violations);
  return file;
}

std::vector<Rung> RungsOf(const SweepHalving& halving, int64_t trials, int64_t steps) {
  std::vector<Rung> rungs;
  int64_t places = trials;
  for (int64_t step = halving.first; step < steps && places > 1; step *= halving.factor) {
    places = spec::PlacesAt(trials, halving.factor, static_cast<int>(rungs.size()));
    rungs.push_back({step, places});
    if (step > steps / halving.factor) break;  // the next one is beyond them, or no number
  }
  return rungs;
}

}  // namespace sab::client
