#pragma once

#include <memory>

#include "model/engine.h"

namespace sab::model {

// The network in plain LibTorch operations under autograd.
std::unique_ptr<Engine> MakeReferenceEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters);

}  // namespace sab::model
