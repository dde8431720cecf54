#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/engine.h"

namespace sab::model {

// Whether the fused CPU engine computes this network: all four systems with every setting on a CPU in fp32 (tf32 means
// fp32 there) or fp64. Otherwise false, and `why_not` (may be null) names the setting.
bool FastEngineSupports(const ModelConfig& config, const TaskShape& shape, at::Device device,
                        std::string* why_not = nullptr);

// The fused engine. Its results are those of the reference up to rounding, and the same bits for any number of threads
// (at::get_num_threads() at each pass) and in every run on one kind of machine. `parameters` must outlive it.
// Throws std::invalid_argument where FastEngineSupports is false.
std::unique_ptr<Engine> MakeFastEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters);

// One training step on one thread, and how the time divides over its parts, in seconds: {"scores and recall", 0.021},
// ... Adds to the gradients like ForwardBackward.
std::vector<std::pair<std::string, double>> ProfileFastStep(const ModelConfig& config, const TaskShape& shape,
                                                            ParameterSet& parameters, const Batch& batch);

}  // namespace sab::model
