#include "model/engine.h"

#include <stdexcept>

#include "model/reference/reference_engine.h"
#ifdef SAB_HAVE_FAST_ENGINE
#include "model/fast/fast_engine.h"
#endif
#ifdef SAB_HAVE_CUDA_ENGINE
#include "model/cuda/cuda_engine.h"
#endif

namespace sab::model {
namespace {

// The fused engine of the parameters' device; null, and why, where there is none.
std::unique_ptr<Engine> MakeFused(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters,
                                  std::string* why_not) {
  const at::Device device = parameters.values().device();
  *why_not = "this build has none";
#ifdef SAB_HAVE_CUDA_ENGINE
  if (device.is_cuda()) {
    if (!CudaEngineSupports(config, shape, device, why_not)) return nullptr;
    return MakeCudaEngine(config, shape, parameters);
  }
#endif
#ifdef SAB_HAVE_FAST_ENGINE
  if (FastEngineSupports(config, shape, device, why_not)) return MakeFastEngine(config, shape, parameters);
#endif
  return nullptr;
}

}  // namespace

std::unique_ptr<Engine> MakeEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters) {
  if (config.engine == EngineKind::kReference) return MakeReferenceEngine(config, shape, parameters);
  std::string why_not;
  if (std::unique_ptr<Engine> fused = MakeFused(config, shape, parameters, &why_not)) return fused;
  if (config.engine == EngineKind::kFast) {
    throw std::invalid_argument("engine: there is no fast engine for this model: " + why_not +
                                "; use auto or reference");
  }
  return MakeReferenceEngine(config, shape, parameters);
}

}  // namespace sab::model
