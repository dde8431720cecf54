#include "model/engine.h"

#include <stdexcept>

#include "model/reference/reference_engine.h"
#ifdef SAB_HAVE_FAST_ENGINE
#include "model/fast/fast_engine.h"
#endif

namespace sab::model {

std::unique_ptr<Engine> MakeEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters) {
#ifdef SAB_HAVE_FAST_ENGINE
  if (config.engine != EngineKind::kReference && FastEngineSupports(config, shape, parameters.values().device())) {
    return MakeFastEngine(config, shape, parameters);
  }
#endif
  if (config.engine == EngineKind::kFast) {
    throw std::invalid_argument(
        "engine: there is no fast engine for these settings on this device; use auto or reference");
  }
  return MakeReferenceEngine(config, shape, parameters);
}

}  // namespace sab::model
