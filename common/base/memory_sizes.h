#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace sab {

// "40GiB" in bytes; 0 for "". InvalidArgument shows the form expected.
absl::StatusOr<int64_t> ParseMemory(std::string_view text);

// For people: "512 B", "1.5 MiB".
std::string FormatBytes(int64_t bytes);

// Memory is placed in few sizes, so that jobs that ask for nearly the same share the scheduler's indexes: numbers of
// bytes with at most three leading bits, at most a fourth apart.
inline int64_t RoundDownMemory(int64_t bytes) {
  if (bytes < 8) return bytes < 0 ? 0 : bytes;
  const int shift = std::bit_width(static_cast<uint64_t>(bytes)) - 3;
  return bytes >> shift << shift;
}

inline int64_t RoundUpMemory(int64_t bytes) {
  const int64_t down = RoundDownMemory(bytes);
  if (down >= bytes) return down;
  return down + (int64_t{1} << (std::bit_width(static_cast<uint64_t>(bytes)) - 3));
}

}  // namespace sab
