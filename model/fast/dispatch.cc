#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "model/fast/plan.h"

namespace sab::model::fast {

#define SAB_DECLARE(isa)                       \
  namespace isa {                              \
  extern const Kernels<float> kFloatKernels;   \
  extern const Kernels<double> kDoubleKernels; \
  }
SAB_DECLARE(generic)
#ifdef SAB_X86_KERNELS
SAB_DECLARE(avx2)
SAB_DECLARE(avx512)
#endif
#undef SAB_DECLARE

namespace {

enum Level { kGeneric, kAvx2, kAvx512 };

Level MachineLevel() {
#ifdef SAB_X86_KERNELS
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw")) {
    return kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
  return kGeneric;
}

template <class T>
const Kernels<T>* KernelsAt(Level level) {
  constexpr bool is_float = sizeof(T) == sizeof(float);
  const void* table = is_float ? static_cast<const void*>(&generic::kFloatKernels) : &generic::kDoubleKernels;
#ifdef SAB_X86_KERNELS
  if (level == kAvx2) table = is_float ? static_cast<const void*>(&avx2::kFloatKernels) : &avx2::kDoubleKernels;
  if (level == kAvx512) table = is_float ? static_cast<const void*>(&avx512::kFloatKernels) : &avx512::kDoubleKernels;
#endif
  return static_cast<const Kernels<T>*>(table);
}

}  // namespace

template <class T>
const Kernels<T>* KernelsNamed(const char* name) {
  for (int level = kGeneric; level <= MachineLevel(); ++level) {
    const Kernels<T>* kernels = KernelsAt<T>(static_cast<Level>(level));
    if (std::strcmp(kernels->name, name) == 0) return kernels;
  }
  return nullptr;
}

template <class T>
const Kernels<T>& BestKernels() {
  const char* wanted = std::getenv("SAB_ENGINE_ISA");
  if (wanted == nullptr || *wanted == '\0') return *KernelsAt<T>(MachineLevel());
  const Kernels<T>* named = KernelsNamed<T>(wanted);
  if (named == nullptr) {
    throw std::invalid_argument("SAB_ENGINE_ISA: this machine has no kernels named " + std::string(wanted) +
                                "; its best are " + KernelsAt<T>(MachineLevel())->name);
  }
  return *named;
}

template const Kernels<float>* KernelsNamed<float>(const char*);
template const Kernels<double>* KernelsNamed<double>(const char*);
template const Kernels<float>& BestKernels<float>();
template const Kernels<double>& BestKernels<double>();

}  // namespace sab::model::fast
