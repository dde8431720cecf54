#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sab {

// What the system says about `path`: NotFound (ENOENT), PermissionDenied, ResourceExhausted (no space, quota, file too
// large; the text tells to make room), else Internal.
absl::Status SystemError(int error_number, std::string_view doing, const std::string& path);

// A new file that is hashed while it is written. Write, then Finish; without Finish the file may be incomplete.
class HashedFile {
 public:
  // Mode 0644 whatever the umask. An existing file is replaced.
  static absl::StatusOr<HashedFile> Create(const std::string& path);
  HashedFile(HashedFile&& other) noexcept;
  HashedFile& operator=(HashedFile&&) = delete;
  ~HashedFile();

  absl::Status Write(std::string_view data);
  // Syncs and closes. Returns the SHA-256 in hex.
  absl::StatusOr<std::string> Finish();
  int64_t size_bytes() const { return size_bytes_; }

 private:
  struct Digest;
  HashedFile(std::string path, int fd);
  std::string path_;
  int fd_;
  int64_t size_bytes_ = 0;
  std::unique_ptr<Digest> digest_;
};

// Makes a folder's entries durable.
absl::Status SyncFolder(const std::string& folder);

}  // namespace sab
