#include "common/base/memory_sizes.h"

#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace sab {

absl::StatusOr<int64_t> ParseMemory(std::string_view text) {
  constexpr std::pair<const char*, int> kUnits[] = {{"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
  if (text.empty()) return 0;
  for (const auto& [unit, shift] : kUnits) {
    absl::string_view number(text.data(), text.size());
    int64_t count = 0;
    if (!absl::ConsumeSuffix(&number, unit) || !absl::SimpleAtoi(number, &count)) continue;
    if (count >= 1 && count <= int64_t{1} << (50 - shift)) return count << shift;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("must be a whole number with MiB, GiB or TiB, for example 40GiB, got \"", std::string(text), "\""));
}

std::string FormatBytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  for (; value >= 1023.95 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

}  // namespace sab
