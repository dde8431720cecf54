#include "model/engine.h"

#include <stdexcept>

#include "model/reference/reference_engine.h"
#ifdef SAB_HAVE_FAST_ENGINE
#include "model/fast/fast_engine.h"
#endif

namespace sab::model {

std::unique_ptr<Engine> MakeEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters) {
#ifdef SAB_HAVE_FAST_ENGINE
  std::string why_not;
  const bool fast = FastEngineSupports(config, shape, parameters.values().device(), &why_not);
  if (fast && config.engine != EngineKind::kReference) return MakeFastEngine(config, shape, parameters);
#else
  const std::string why_not = "this build has none";
#endif
  if (config.engine == EngineKind::kFast) {
    throw std::invalid_argument("engine: there is no fast engine for this model: " + why_not +
                                "; use auto or reference");
  }
  return MakeReferenceEngine(config, shape, parameters);
}

}  // namespace sab::model
