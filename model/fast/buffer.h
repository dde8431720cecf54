#pragma once

#include <cstddef>
#include <memory>

namespace sab::model::fast {

// What a Buffer takes from the system for `bytes`: whole huge pages.
size_t ReservedBytes(size_t bytes);

struct Unmap {
  size_t bytes = 0;
  void operator()(char* base) const;
};

// Memory that is kept from pass to pass and only grows: fresh pages cost more than many a kernel. Its content is
// unspecified.
class Buffer {
 public:
  // At least `bytes`, 64-byte aligned; earlier pointers are void. Throws std::bad_alloc.
  char* Need(size_t bytes);

 private:
  std::unique_ptr<char, Unmap> base_;
};

}  // namespace sab::model::fast
