#pragma once

#include <ATen/Context.h>

namespace sab::model {

// The process-wide permission of TensorFloat-32 products, for one pass.
class Tf32Scope {
 public:
  explicit Tf32Scope(bool allow) : before_(at::globalContext().allowTF32CuBLAS()) {
    if (allow != before_) at::globalContext().setAllowTF32CuBLAS(allow);
  }
  ~Tf32Scope() {
    if (at::globalContext().allowTF32CuBLAS() != before_) at::globalContext().setAllowTF32CuBLAS(before_);
  }
  Tf32Scope(const Tf32Scope&) = delete;
  Tf32Scope& operator=(const Tf32Scope&) = delete;

 private:
  const bool before_;
};

}  // namespace sab::model
