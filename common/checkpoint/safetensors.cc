#include "common/checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/checkpoint/file.h"

namespace sab {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own bound
constexpr size_t kSizeBytes = 8;
constexpr char kMetadataKey[] = "__metadata__";

// Bytes of a tensor; false when the shape is negative or overflows.
bool TensorBytes(const std::string& dtype, const std::vector<int64_t>& shape, uint64_t* bytes) {
  *bytes = static_cast<uint64_t>(DtypeSize(dtype));
  if (*bytes == 0) return false;
  for (int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(*bytes, static_cast<uint64_t>(size), bytes)) return false;
  }
  return true;
}

// The header's JSON, refusing duplicate keys (the parser would keep the last) and deep nesting.
absl::StatusOr<Json> ParseHeader(absl::string_view text) {
  std::vector<std::set<std::string>> keys;
  std::string problem;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > 8 && problem.empty()) problem = "nested too deep";
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second && problem.empty()) {
      problem = absl::StrCat("key \"", parsed.get<std::string>(), "\" occurs twice");
    }
    return problem.empty();
  };
  Json header = Json::parse(text.begin(), text.end(), check, /*allow_exceptions=*/false);
  if (!problem.empty()) return absl::DataLossError(problem);
  if (header.is_discarded() || !header.is_object()) return absl::DataLossError("is not a JSON object");
  return header;
}

absl::Status ReadMetadata(const Json& value, std::map<std::string, std::string>* metadata) {
  if (!value.is_object()) return absl::DataLossError("__metadata__ is not an object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) return absl::DataLossError("__metadata__ holds something other than strings");
    (*metadata)[key] = text.get<std::string>();
  }
  return absl::OkStatus();
}

bool ReadUnsigned(const Json& value, std::vector<int64_t>* numbers) {
  if (!value.is_array()) return false;
  for (const Json& number : value) {
    if (!number.is_number_unsigned() || number.get<uint64_t>() > INT64_MAX) return false;
    numbers->push_back(number.get<int64_t>());
  }
  return true;
}

struct Entry {
  TensorView tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

absl::StatusOr<Entry> ReadEntry(const std::string& name, const Json& value, uint64_t data_bytes) {
  const auto wrong = [&](const std::string& what) {
    return absl::DataLossError(absl::StrCat("tensor \"", name, "\": ", what));
  };
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") || !value.contains("data_offsets")) {
    return wrong("must have dtype, shape and data_offsets");
  }
  Entry entry;
  entry.tensor.name = name;
  if (!value["dtype"].is_string()) return wrong("dtype is not a string");
  entry.tensor.dtype = value["dtype"].get<std::string>();
  if (DtypeSize(entry.tensor.dtype) == 0) return wrong(absl::StrCat("unknown dtype \"", entry.tensor.dtype, "\""));
  if (!ReadUnsigned(value["shape"], &entry.tensor.shape)) return wrong("shape is not a list of sizes");
  std::vector<int64_t> offsets;
  if (!ReadUnsigned(value["data_offsets"], &offsets) || offsets.size() != 2) return wrong("data_offsets is not a pair");
  entry.begin = static_cast<uint64_t>(offsets[0]);
  entry.end = static_cast<uint64_t>(offsets[1]);
  uint64_t bytes = 0;
  if (entry.begin > entry.end || entry.end > data_bytes) {
    return wrong(absl::StrCat("data_offsets [", entry.begin, ", ", entry.end, "] lie outside the ", data_bytes,
                              " bytes of data"));
  }
  if (!TensorBytes(entry.tensor.dtype, entry.tensor.shape, &bytes) || bytes != entry.end - entry.begin) {
    return wrong("data_offsets do not fit dtype and shape");
  }
  return entry;
}

// In order of their data, which must be covered without overlap or gap.
absl::Status CheckCover(std::vector<Entry>* entries, uint64_t data_bytes) {
  std::stable_sort(entries->begin(), entries->end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t position = 0;
  for (const Entry& entry : *entries) {
    if (entry.begin != position) {
      return absl::DataLossError(absl::StrCat("tensor \"", entry.tensor.name, "\": starts at byte ", entry.begin,
                                              " of the data where ", position, " was due"));
    }
    position = entry.end;
  }
  if (position != data_bytes) {
    return absl::DataLossError(absl::StrCat("holds ", data_bytes, " bytes of data where its header names ", position));
  }
  return absl::OkStatus();
}

struct Content {
  std::vector<TensorView> tensors;
  std::map<std::string, std::string> metadata;
};

absl::StatusOr<Content> Parse(const std::byte* bytes, size_t size) {
  if (size < kSizeBytes)
    return absl::DataLossError(absl::StrCat("has ", size, " bytes, too few for a safetensors file"));
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kSizeBytes; ++i) header_bytes |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  if (header_bytes > kMaxHeaderBytes || header_bytes > size - kSizeBytes) {
    return absl::DataLossError(absl::StrCat("its header of ", header_bytes, " bytes is larger than the file"));
  }
  const auto annotated = [](const absl::Status& status) { return Annotate(status, "header"); };
  absl::StatusOr<Json> header =
      ParseHeader(absl::string_view(reinterpret_cast<const char*>(bytes) + kSizeBytes, header_bytes));
  if (!header.ok()) return annotated(header.status());
  const uint64_t data_bytes = size - kSizeBytes - header_bytes;
  Content content;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header->items()) {
    if (name == kMetadataKey) {
      if (absl::Status status = ReadMetadata(value, &content.metadata); !status.ok()) return annotated(status);
      continue;
    }
    absl::StatusOr<Entry> entry = ReadEntry(name, value, data_bytes);
    if (!entry.ok()) return annotated(entry.status());
    entries.push_back(*std::move(entry));
  }
  SAB_RETURN_IF_ERROR(CheckCover(&entries, data_bytes));
  for (Entry& entry : entries) {
    entry.tensor.data = {bytes + kSizeBytes + header_bytes + entry.begin, entry.end - entry.begin};
    content.tensors.push_back(std::move(entry.tensor));
  }
  return content;
}

}  // namespace

int64_t DtypeSize(std::string_view dtype) {
  static const std::map<std::string, int64_t, std::less<>> kSizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
      {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"I64", 8},     {"U64", 8}, {"F64", 8}};
  const auto found = kSizes.find(dtype);
  return found == kSizes.end() ? 0 : found->second;
}

absl::StatusOr<std::string> SafetensorsHeader(absl::Span<const TensorView> tensors,
                                              const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  uint64_t offset = 0;
  for (const TensorView& tensor : tensors) {
    uint64_t bytes = 0;
    if (tensor.name == kMetadataKey || header.contains(tensor.name)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor \"", tensor.name, "\": its name is taken"));
    }
    if (!TensorBytes(tensor.dtype, tensor.shape, &bytes) || bytes != tensor.data.size()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor \"", tensor.name, "\": ", tensor.data.size(),
                                                     " bytes do not fit dtype ", tensor.dtype, " and shape [",
                                                     absl::StrJoin(tensor.shape, ", "), "]"));
    }
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');  // data start aligned, as the format's own writer does
  if (text.size() > kMaxHeaderBytes) return absl::InvalidArgumentError("the header is larger than 100 MB");
  std::string result(kSizeBytes, '\0');
  for (size_t i = 0; i < kSizeBytes; ++i) result[i] = static_cast<char>((text.size() >> (8 * i)) & 0xFF);
  return result + text;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return SystemError(errno, "open", path);
  auto file = std::unique_ptr<SafetensorsFile>(new SafetensorsFile());
  file->path_ = path;
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return absl::NotFoundError(absl::StrCat(path, " is not a regular file"));
  }
  file->mapped_bytes_ = static_cast<size_t>(info.st_size);
  if (file->mapped_bytes_ > 0) {
    void* mapping = mmap(nullptr, file->mapped_bytes_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error_number = errno;
    close(fd);
    if (mapping == MAP_FAILED) return SystemError(error_number, "map", path);
    file->mapping_ = mapping;
  } else {
    close(fd);
  }
  absl::StatusOr<Content> content = Parse(static_cast<const std::byte*>(file->mapping_), file->mapped_bytes_);
  if (!content.ok()) return Annotate(content.status(), path);
  file->tensors_ = std::move(content->tensors);
  file->metadata_ = std::move(content->metadata);
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_bytes_);
}

absl::StatusOr<TensorView> SafetensorsFile::Find(std::string_view name) const {
  for (const TensorView& tensor : tensors_) {
    if (tensor.name == name) return tensor;
  }
  std::vector<std::string> names;
  for (const TensorView& tensor : tensors_) names.push_back(tensor.name);
  return absl::NotFoundError(
      absl::StrCat(path_, " has no tensor \"", std::string(name), "\"; it has ", absl::StrJoin(names, ", ")));
}

}  // namespace sab
