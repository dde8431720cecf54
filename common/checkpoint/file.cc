#include "common/checkpoint/file.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"

namespace sab {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

class OpenFile {
 public:
  explicit OpenFile(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~OpenFile() {
    if (fd_ >= 0) close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace

absl::Status SystemError(int error_number, std::string_view doing, const std::string& path) {
  std::string text = absl::StrCat("cannot ", std::string(doing), " ", path, ": ", std::strerror(error_number));
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(text);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(text + "; make room on that disk or move the folder to a larger one");
    default:
      return absl::InternalError(text);
  }
}

struct HashedFile::Digest {
  Digest() : context(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context, EVP_sha256(), nullptr); }
  ~Digest() { EVP_MD_CTX_free(context); }
  void Update(std::string_view data) { EVP_DigestUpdate(context, data.data(), data.size()); }
  std::string Hex() {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(context, bytes, &size);
    return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(bytes), size));
  }
  EVP_MD_CTX* const context;
};

HashedFile::HashedFile(std::string path, int fd)
    : path_(std::move(path)), fd_(fd), digest_(std::make_unique<Digest>()) {}

HashedFile::HashedFile(HashedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      size_bytes_(other.size_bytes_),
      digest_(std::move(other.digest_)) {}

HashedFile::~HashedFile() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<HashedFile> HashedFile::Create(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError(errno, "create", path);
  fchmod(fd, 0644);
  return HashedFile(path, fd);
}

absl::Status HashedFile::Write(std::string_view data) {
  digest_->Update(data);
  size_bytes_ += static_cast<int64_t>(data.size());
  while (!data.empty()) {
    const ssize_t written = write(fd_, data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError(errno, "write", path_);
    data.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> HashedFile::Finish() {
  if (fsync(fd_) != 0) return SystemError(errno, "sync", path_);
  if (close(std::exchange(fd_, -1)) != 0) return SystemError(errno, "close", path_);
  return digest_->Hex();
}

absl::Status SyncFolder(const std::string& folder) {
  const OpenFile file(folder);
  if (file.fd() < 0) return SystemError(errno, "open", folder);
  // Some network file systems refuse to sync folders; their renames are as durable as they get.
  if (fsync(file.fd()) != 0 && errno != EINVAL) return SystemError(errno, "sync", folder);
  return absl::OkStatus();
}

std::string Sha256(std::string_view data) {
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(data.data(), data.size(), bytes, &size, EVP_sha256(), nullptr);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(bytes), size));
}

absl::StatusOr<std::string> Sha256OfFile(const std::string& path) {
  const OpenFile file(path);
  if (file.fd() < 0) return SystemError(errno, "open", path);
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  EVP_DigestInit_ex(context, EVP_sha256(), nullptr);
  std::vector<char> buffer(kBufferBytes);
  ssize_t got = 0;
  while ((got = read(file.fd(), buffer.data(), buffer.size())) > 0 || (got < 0 && errno == EINTR)) {
    if (got > 0) EVP_DigestUpdate(context, buffer.data(), static_cast<size_t>(got));
  }
  const int error_number = errno;
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(context, bytes, &size);
  EVP_MD_CTX_free(context);
  if (got < 0) return SystemError(error_number, "read", path);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(bytes), size));
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const OpenFile file(path);
  if (file.fd() < 0) return SystemError(errno, "open", path);
  std::string content;
  struct stat info {};
  if (fstat(file.fd(), &info) == 0 && info.st_size > 0) content.reserve(static_cast<size_t>(info.st_size));
  std::vector<char> buffer(64 << 10);
  while (true) {
    const ssize_t got = read(file.fd(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(errno, "read", path);
    if (got == 0) return content;
    content.append(buffer.data(), static_cast<size_t>(got));
  }
}

absl::Status WriteFileDurably(const std::string& path, std::string_view content) {
  static std::atomic<int> counter{0};
  const std::string temporary = absl::StrCat(path, ".tmp-", getpid(), "-", counter.fetch_add(1));
  absl::Status status = [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(HashedFile file, HashedFile::Create(temporary));
    SAB_RETURN_IF_ERROR(file.Write(content));
    SAB_RETURN_IF_ERROR(file.Finish().status());
    if (rename(temporary.c_str(), path.c_str()) != 0) return SystemError(errno, "rename to", path);
    return SyncFolder(FolderOf(path));
  }();
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

}  // namespace sab
