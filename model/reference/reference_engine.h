#pragma once

#include <memory>

#include "model/engine.h"

namespace sab::model {

// The networks in plain LibTorch operations under autograd, on any device, with every setting: what a faster engine is
// checked against. A backward pass keeps O(T B (4H + k_top H)) numbers and the memories; `recall: all` and kind
// attention O(T^2 B H). `parameters` must outlive the engine. `config.recompute` and `config.engine` have no effect
// here.
std::unique_ptr<Engine> MakeReferenceEngine(const ModelConfig& config, const TaskShape& shape,
                                            ParameterSet& parameters);

}  // namespace sab::model
