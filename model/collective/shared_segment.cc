#include "model/collective/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace sab::model {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// An open descriptor until it is released.
class Descriptor {
 public:
  Descriptor(int fd, const char* what) : fd_(fd) { Check(fd, what); }
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

  static void Check(int result, const char* what) {
    if (result < 0) throw std::system_error(errno, std::generic_category(), what);
  }

 private:
  int fd_;
};

}  // namespace

SharedSegment::SharedSegment(int fd, size_t bytes) : fd_(fd), bytes_(bytes) {
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (address == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "shared memory: mmap");
  data_ = static_cast<std::byte*>(address);
}

SharedSegment::SharedSegment(SharedSegment&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), bytes_(other.bytes_), data_(std::exchange(other.data_, nullptr)) {}

SharedSegment::~SharedSegment() {
  CloseFile();
  if (data_ != nullptr) munmap(data_, bytes_);
}

void SharedSegment::CloseFile() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

SharedSegment SharedSegment::Create(size_t bytes) {
  Descriptor file(memfd_create("sab-collective", MFD_CLOEXEC | MFD_ALLOW_SEALING), "shared memory: memfd_create");
  Descriptor::Check(fallocate(file.get(), 0, 0, static_cast<off_t>(bytes)), "shared memory: fallocate");
  Descriptor::Check(fcntl(file.get(), F_ADD_SEALS, kSeals), "shared memory: seals");
  SharedSegment segment(file.get(), bytes);
  file.Release();
  return segment;
}

SharedSegment SharedSegment::Attach(pid_t pid, int fd, size_t bytes) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  Descriptor file(open(path.c_str(), O_RDWR | O_CLOEXEC), path.c_str());
  struct stat status {};
  Descriptor::Check(fstat(file.get(), &status), path.c_str());
  // Any other file than a sealed memfd fails here, before it is mapped.
  if (fcntl(file.get(), F_GET_SEALS) != kSeals || status.st_size != static_cast<off_t>(bytes))
    throw std::runtime_error(path + ": not the segment");
  SharedSegment segment(file.get(), bytes);
  file.Release();
  return segment;
}

}  // namespace sab::model
