#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace sab {

// A tensor in the safetensors format (huggingface/safetensors, README "Format"): contiguous, little-endian, row-major.
struct TensorView {
  std::string name;
  std::string dtype;  // "F32", "F64", "BF16", "I64", "U8" …
  std::vector<int64_t> shape;
  absl::Span<const std::byte> data;
};

// Bytes of one element; 0 for a dtype that does not exist.
int64_t DtypeSize(std::string_view dtype);

// Writes header and data through `sink`, in the order given. Names must differ and sizes fit shapes: InvalidArgument.
absl::StatusOr<std::string> SafetensorsHeader(absl::Span<const TensorView> tensors,
                                              const std::map<std::string, std::string>& metadata);

// A safetensors file, memory-mapped for reading. Views live as long as this.
class SafetensorsFile {
 public:
  // NotFound; DataLoss when it is truncated, overlaps, or its header is wrong (the text names path and what is wrong).
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::vector<TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // NotFound names the tensor, the file, and the tensors it has.
  absl::StatusOr<TensorView> Find(std::string_view name) const;

 private:
  SafetensorsFile() = default;
  std::string path_;
  void* mapping_ = nullptr;
  size_t mapped_bytes_ = 0;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace sab
