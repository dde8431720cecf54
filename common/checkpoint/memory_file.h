#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

// A file of pieces of memory, without their pages that are all zero:
//   for each piece   a bit for each of its pages of 4096 bytes, the last one perhaps shorter: set if it follows
//                    those pages
// What the pieces are, whoever writes and reads it knows; size and digest are kept elsewhere.
namespace sab {

struct MemoryFile {
  int64_t memory_bytes = 0;  // of the pieces
  int64_t size_bytes = 0;    // of the file
  std::string sha256;        // of the file, in hex
};

// Durable on return. A file that could not be written to its end is removed. ResourceExhausted: the disk is full.
absl::StatusOr<MemoryFile> WriteMemoryFile(const std::string& path,
                                           absl::Span<const absl::Span<const std::byte>> pieces);

// Fills `pieces`, which are of the same sizes, in. NotFound; DataLoss names the file and what is wrong: nothing has
// been filled in then.
absl::Status ReadMemoryFile(const std::string& path, const MemoryFile& expected,
                            absl::Span<const absl::Span<std::byte>> pieces);

}  // namespace sab
