#pragma once

#include <memory>

#include "model/batch.h"
#include "model/config.h"
#include "model/parameters.h"
#include "model/save_points.h"

namespace sab::model {

// Computes passes of one network over whole sequences. One thread calls; an implementation may use more inside.
// Two implementations, equal in results: the reference in plain LibTorch operations, and the fused engine.
class Engine {
 public:
  virtual ~Engine() = default;

  // Forward and backward. Adds d(sum over positions of loss * loss_scale) / d(parameter) to the gradients of
  // `parameters`; the caller zeroes them and chooses loss_scale = 1 / (global loss_count) for a mean. Non-finite values
  // are not an error here. Throws c10::Error or std::bad_alloc when memory runs out; the gradients are unspecified
  // then.
  virtual PassSums ForwardBackward(const Batch& batch, double loss_scale) = 0;

  // Forward alone, in memory independent of what a backward pass would need.
  virtual PassSums Evaluate(const Batch& batch) = 0;

  // Outputs y (B,T,O), for tests, prediction and sampling.
  virtual at::Tensor Outputs(const Batch& batch) = 0;

  // From now on ForwardBackward saves what it has done with `points` (null: no more), goes on from what it finds there,
  // to the same bits, and throws PassStopped when it is asked to stop. `points` outlives its use. False: this engine
  // or network has no save points.
  virtual bool SetSavePoints(SavePoints* /*points*/) { return false; }
};

// The engine that config.engine names, on the device of `parameters`, which must outlive it.
// Throws std::invalid_argument with the setting's name when (config, shape, device) has no such engine; kAuto always
// has one.
std::unique_ptr<Engine> MakeEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters);

}  // namespace sab::model
