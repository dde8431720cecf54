#pragma once

#include <sys/types.h>

#include <cstddef>

namespace sab::model {

// Memory that processes of one machine share. The file behind it has no name in any folder (memfd), so nothing of it is
// left once the last process that maps it has ended, however it ended; and it does not count against the size of
// /dev/shm.
class SharedSegment {
 public:
  // `bytes` zeros. The pages are allocated and the size is sealed: an access cannot fail later. Throws
  // std::system_error.
  static SharedSegment Create(size_t bytes);
  // The segment that process `pid`, of this PID namespace and user, has open as `fd`. Throws std::system_error when it
  // cannot be reached, std::runtime_error when it is not `bytes` long or not sealed.
  static SharedSegment Attach(pid_t pid, int fd, size_t bytes);

  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment(const SharedSegment&) = delete;
  ~SharedSegment();

  std::byte* data() const { return data_; }  // aligned to a page
  int fd() const { return fd_; }

  // When all have attached: the memory stays, the descriptor goes. Idempotent.
  void CloseFile();

 private:
  SharedSegment(int fd, size_t bytes);  // maps, and takes `fd`

  int fd_ = -1;
  size_t bytes_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace sab::model
