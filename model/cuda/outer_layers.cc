#include "model/cuda/outer_layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

namespace sab::model::cuda {
namespace {

using at::Tensor;

Weights WeightsOf(const ModelConfig& config, const ParameterSet& parameters, bool with_gradients) {
  const at::AutoGradMode mode(with_gradients);
  return MakeWeights(config, parameters);
}

Tensor Leaf(const Tensor& values) {
  return values.defined() ? values.detach().set_requires_grad(true) : values;
}

}  // namespace

OuterLayers::OuterLayers(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters,
                         bool with_gradients)
    : shape_(shape), parameters_(parameters), weights_(WeightsOf(config, parameters, with_gradients)) {}

std::vector<size_t> OuterLayers::Find(const std::vector<std::string>& names) const {
  std::vector<size_t> found;
  for (size_t i = 0; i < parameters_.all().size(); ++i) {
    for (const std::string& name : names) {
      if (parameters_.all()[i].name == name) found.push_back(i);
    }
  }
  return found;
}

void OuterLayers::AddGradient(const std::string& name, const Tensor& gradient) const {
  parameters_.Get(name).gradient.detach().add_(gradient);
}

Tensor OuterLayers::Project(const Batch& batch, int64_t first, int64_t count) const {
  const at::NoGradGuard no_grad;
  return ProjectInputs(weights_, batch.inputs.narrow(1, first, count));
}

void OuterLayers::BackwardProject(const Batch& batch, int64_t first, int64_t count, const Tensor& d_projected) const {
  const at::AutoGradMode with_gradients(true);
  const std::vector<size_t> found = Find({"cell.weight_ih", "cell.bias_ih", "cell.bias_hh", "embedding.weight"});
  std::vector<Tensor> leaves;
  for (size_t i : found) leaves.push_back(weights_.leaves[i]);
  const Tensor projected = ProjectInputs(weights_, batch.inputs.narrow(1, first, count));
  const auto gradients = torch::autograd::grad({projected}, leaves, {d_projected}, /*retain_graph=*/std::nullopt,
                                               /*create_graph=*/false, /*allow_unused=*/true);
  for (size_t i = 0; i < found.size(); ++i) {
    if (gradients[i].defined()) parameters_.all()[found[i]].gradient.detach().add_(gradients[i]);
  }
}

OuterLayers::StateGradients OuterLayers::Backward(const Batch& piece, const States& states, double scale) const {
  const at::AutoGradMode with_gradients(true);
  const States leaf{.hidden = Leaf(states.hidden), .context = Leaf(states.context)};
  LossSum loss(shape_, weights_, piece);
  loss.Add(leaf, 0);
  const std::vector<size_t> found = Find({"output.weight", "output.bias"});
  std::vector<Tensor> leaves = {leaf.hidden};
  if (leaf.context.defined()) leaves.push_back(leaf.context);
  const size_t of_states = leaves.size();
  for (size_t i : found) leaves.push_back(weights_.leaves[i]);
  const auto gradients = torch::autograd::grad({loss.loss() * scale}, leaves);
  for (size_t i = 0; i < found.size(); ++i) {
    parameters_.all()[found[i]].gradient.detach().add_(gradients[of_states + i]);
  }
  return {gradients[0].contiguous(), of_states > 1 ? gradients[1].contiguous() : Tensor()};
}

OuterLayers::StateGradients OuterLayers::BackwardEveryStep(const Batch& batch, int64_t first, const States& states,
                                                           double scale) const {
  const int64_t count = states.hidden.size(0);
  Batch piece;
  piece.inputs = batch.inputs.narrow(1, first, count);
  piece.targets = batch.targets.narrow(1, first, count);
  if (batch.lengths.defined()) piece.lengths = (batch.lengths - first).clamp(0, count);
  return Backward(piece, states, scale);
}

OuterLayers::StateGradients OuterLayers::BackwardLastStep(const Batch& batch, const States& last, double scale) const {
  Batch piece;
  piece.inputs = batch.inputs.narrow(1, 0, 1);
  piece.targets = batch.targets;
  return Backward(piece, last, scale);
}

}  // namespace sab::model::cuda
