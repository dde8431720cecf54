#include "common/checkpoint/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/file.h"

namespace sab {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kBufferBytes = size_t{1} << 20;

size_t PagesOf(size_t bytes) {
  return (bytes + kPage - 1) / kPage;
}

bool IsZero(const std::byte* page, size_t bytes) {
  static constexpr std::byte kZeros[kPage] = {};
  return std::memcmp(page, kZeros, bytes) == 0;
}

// Gathers small writes.
class Buffered {
 public:
  explicit Buffered(HashedFile& file) : file_(file) { buffer_.reserve(kBufferBytes); }

  absl::Status Write(const std::byte* data, size_t bytes) {
    if (buffer_.size() + bytes > kBufferBytes) SAB_RETURN_IF_ERROR(Flush());
    buffer_.append(reinterpret_cast<const char*>(data), bytes);
    return absl::OkStatus();
  }
  absl::Status Flush() {
    SAB_RETURN_IF_ERROR(file_.Write(buffer_));
    buffer_.clear();
    return absl::OkStatus();
  }

 private:
  HashedFile& file_;
  std::string buffer_;
};

absl::Status WritePiece(absl::Span<const std::byte> piece, Buffered& out) {
  std::vector<std::byte> present((PagesOf(piece.size()) + 7) / 8);
  for (size_t page = 0; page < PagesOf(piece.size()); ++page) {
    const size_t at = page * kPage;
    if (!IsZero(piece.data() + at, std::min(kPage, piece.size() - at))) present[page / 8] |= std::byte{1} << (page % 8);
  }
  for (size_t done = 0; done < present.size(); done += kPage)
    SAB_RETURN_IF_ERROR(out.Write(present.data() + done, std::min(kPage, present.size() - done)));
  for (size_t page = 0; page < PagesOf(piece.size()); ++page) {
    if ((present[page / 8] & (std::byte{1} << (page % 8))) == std::byte{0}) continue;
    const size_t at = page * kPage;
    SAB_RETURN_IF_ERROR(out.Write(piece.data() + at, std::min(kPage, piece.size() - at)));
  }
  return absl::OkStatus();
}

absl::StatusOr<MemoryFile> WriteAll(const std::string& path, absl::Span<const absl::Span<const std::byte>> pieces) {
  SAB_ASSIGN_OR_RETURN(HashedFile file, HashedFile::Create(path));
  Buffered out(file);
  MemoryFile written;
  for (const absl::Span<const std::byte> piece : pieces) {
    SAB_RETURN_IF_ERROR(WritePiece(piece, out));
    written.memory_bytes += static_cast<int64_t>(piece.size());
  }
  SAB_RETURN_IF_ERROR(out.Flush());
  SAB_ASSIGN_OR_RETURN(written.sha256, file.Finish());
  written.size_bytes = file.size_bytes();
  return written;
}

// A file's content, mapped.
class Mapping {
 public:
  explicit Mapping(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
      error_ = errno;
      return;
    }
    struct stat info {};
    if (fstat(fd, &info) != 0) {
      error_ = errno;
    } else if (info.st_size > 0) {
      size_ = static_cast<size_t>(info.st_size);
      void* base = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
      if (base == MAP_FAILED) error_ = errno;
      base_ = base == MAP_FAILED ? nullptr : base;
    }
    close(fd);
  }
  ~Mapping() {
    if (base_ != nullptr) munmap(base_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  int error() const { return error_; }
  absl::Span<const std::byte> bytes() const { return {static_cast<const std::byte*>(base_), size_}; }

 private:
  void* base_ = nullptr;
  size_t size_ = 0;
  int error_ = 0;
};

// Walks over the file as its pieces divide it; with `fill` it fills them in. False: they do not fit it.
bool Walk(absl::Span<const std::byte> file, absl::Span<const absl::Span<std::byte>> pieces, bool fill) {
  for (const absl::Span<std::byte> piece : pieces) {
    const size_t bitmap = (PagesOf(piece.size()) + 7) / 8;
    if (file.size() < bitmap) return false;
    const absl::Span<const std::byte> present = file.subspan(0, bitmap);
    file.remove_prefix(bitmap);
    for (size_t page = 0; page < PagesOf(piece.size()); ++page) {
      const size_t at = page * kPage, bytes = std::min(kPage, piece.size() - at);
      const bool follows = (present[page / 8] & (std::byte{1} << (page % 8))) != std::byte{0};
      if (follows && file.size() < bytes) return false;
      if (fill && follows) std::memcpy(piece.data() + at, file.data(), bytes);
      if (fill && !follows) std::memset(piece.data() + at, 0, bytes);
      if (follows) file.remove_prefix(bytes);
    }
  }
  return file.empty();
}

}  // namespace

absl::StatusOr<MemoryFile> WriteMemoryFile(const std::string& path,
                                           absl::Span<const absl::Span<const std::byte>> pieces) {
  absl::StatusOr<MemoryFile> written = WriteAll(path, pieces);
  if (!written.ok()) unlink(path.c_str());
  return written;
}

absl::Status ReadMemoryFile(const std::string& path, const MemoryFile& expected,
                            absl::Span<const absl::Span<std::byte>> pieces) {
  const Mapping mapping(path);
  if (mapping.error() != 0) return SystemError(mapping.error(), "read", path);
  const absl::Span<const std::byte> bytes = mapping.bytes();
  if (static_cast<int64_t>(bytes.size()) != expected.size_bytes) {
    return absl::DataLossError(absl::StrCat(path, ": has ", bytes.size(), " bytes, expected ", expected.size_bytes));
  }
  if (Sha256({reinterpret_cast<const char*>(bytes.data()), bytes.size()}) != expected.sha256)
    return absl::DataLossError(absl::StrCat(path, ": its content is not what was written"));
  int64_t memory = 0;
  for (const absl::Span<std::byte> piece : pieces) memory += static_cast<int64_t>(piece.size());
  if (memory != expected.memory_bytes || !Walk(bytes, pieces, false))
    return absl::DataLossError(absl::StrCat(path, ": is of other pieces of memory"));
  Walk(bytes, pieces, true);
  return absl::OkStatus();
}

}  // namespace sab
