#include "common/spec/words.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace sab::spec {
namespace {

size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

// "learning_rate" -> "lr".
std::string Initials(const std::string& name) {
  std::string initials;
  for (size_t i = 0; i < name.size(); ++i) {
    if (i == 0 || name[i - 1] == '_') initials += name[i];
  }
  return initials;
}

}  // namespace

std::string Word(const google::protobuf::EnumValueDescriptor& value) {
  const std::string& unspecified = value.type()->value(0)->name();  // PREFIX_UNSPECIFIED
  const size_t prefix = unspecified.rfind('_') + 1;
  return value.number() == 0 ? "" : absl::AsciiStrToLower(value.name().substr(prefix));
}

std::vector<std::string> Words(const google::protobuf::EnumDescriptor& type) {
  std::vector<std::string> words;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0) words.push_back(Word(*type.value(i)));
  }
  return words;
}

std::string Nearest(std::string_view typed, const std::vector<std::string>& candidates) {
  if (typed.empty() || typed.size() > 64) return "";
  std::string key = absl::AsciiStrToLower(std::string(typed));
  std::replace(key.begin(), key.end(), '-', '_');
  std::string best;
  size_t best_distance = std::max<size_t>(1, key.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    size_t distance = EditDistance(key, candidate);
    if (key.size() >= 2 && key == Initials(candidate)) distance = std::min<size_t>(distance, 1);
    if (key.size() >= 3 && (absl::StartsWith(candidate, key) || absl::EndsWith(candidate, "_" + key))) {
      distance = std::min<size_t>(distance, 1);
    }
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace sab::spec
