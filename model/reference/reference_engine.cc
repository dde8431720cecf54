#include "model/reference/reference_engine.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "model/reference/cell.h"
#include "model/reference/loss.h"
#include "model/reference/recurrence.h"
#include "model/reference/tf32.h"
#include "model/row_streams.h"

namespace sab::model {
namespace {

// Steps whose outputs a pass without gradients holds at a time.
constexpr int64_t kStepsAtATime = 64;

class ReferenceEngine : public Engine {
 public:
  ReferenceEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters)
      : config_(config), shape_(shape), parameters_(parameters) {}

  PassSums ForwardBackward(const Batch& batch, double loss_scale) override {
    if (batch.rows() == 0) return {};
    const at::AutoGradMode with_gradients(true);
    const Tf32Scope tf32(config_.precision == Precision::kTf32);
    const Weights weights = MakeWeights(config_, parameters_);
    LossSum sum(shape_, weights, batch);
    sum.Add(Start(weights, batch)->Advance(ProjectInputs(weights, batch.inputs)), 0);
    const std::vector<at::Tensor> gradients = torch::autograd::grad(
        {sum.loss() * loss_scale}, weights.leaves, {}, std::nullopt, /*create_graph=*/false, /*allow_unused=*/true);
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (gradients[i].defined()) parameters_.all()[i].gradient.detach().add_(gradients[i]);
    }
    return sum.Sums();
  }

  PassSums Evaluate(const Batch& batch) override {
    if (batch.rows() == 0) return {};
    const at::NoGradGuard no_grad;
    const Tf32Scope tf32(config_.precision == Precision::kTf32);
    const Weights weights = MakeWeights(config_, parameters_);
    LossSum sum(shape_, weights, batch);
    ForEachPiece(weights, batch, [&](const States& states, int64_t first) { sum.Add(states, first); });
    PassSums sums = sum.Sums();
    sums.guarded_count = 0;
    return sums;
  }

  at::Tensor Outputs(const Batch& batch) override {
    const at::NoGradGuard no_grad;
    const Tf32Scope tf32(config_.precision == Precision::kTf32);
    const Weights weights = MakeWeights(config_, parameters_);
    std::vector<at::Tensor> pieces;
    ForEachPiece(weights, batch, [&](const States& states, int64_t) { pieces.push_back(Output(weights, states)); });
    return at::cat(pieces).transpose(0, 1).contiguous();
  }

 private:
  std::unique_ptr<Recurrence> Start(const Weights& weights, const Batch& batch) const {
    const bool random = config_.kind == Kind::kSab && config_.recall == Recall::kRandom;
    return MakeRecurrence(config_, weights, batch.rows(), random ? RowStreams(batch) : std::vector<uint64_t>());
  }

  template <typename Visit>
  void ForEachPiece(const Weights& weights, const Batch& batch, const Visit& visit) const {
    const std::unique_ptr<Recurrence> recurrence = Start(weights, batch);
    for (int64_t first = 0; first < batch.steps(); first += kStepsAtATime) {
      const int64_t steps = std::min(kStepsAtATime, batch.steps() - first);
      visit(recurrence->Advance(ProjectInputs(weights, batch.inputs.narrow(1, first, steps))), first);
    }
  }

  const ModelConfig config_;
  const TaskShape shape_;
  ParameterSet& parameters_;
};

}  // namespace

std::unique_ptr<Engine> MakeReferenceEngine(const ModelConfig& config, const TaskShape& shape,
                                            ParameterSet& parameters) {
  return std::make_unique<ReferenceEngine>(config, shape, parameters);
}

}  // namespace sab::model
