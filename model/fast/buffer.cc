#include "model/fast/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace sab::model::fast {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

size_t ReservedBytes(size_t bytes) {
  return (bytes + kHugePage - 1) / kHugePage * kHugePage;
}

char* Buffer::Need(size_t bytes) {
  if (bytes <= base_.get_deleter().bytes && base_ != nullptr) return base_.get();
  base_.reset();
  const size_t rounded = std::max(kHugePage, ReservedBytes(bytes));
  void* base = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  madvise(base, rounded, MADV_HUGEPAGE);  // a wish: fewer page faults and misses of the TLB
  base_ = std::unique_ptr<char, Unmap>(static_cast<char*>(base), Unmap{rounded});
  return base_.get();
}

void Unmap::operator()(char* base) const {
  munmap(base, bytes);
}

}  // namespace sab::model::fast
