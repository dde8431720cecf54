#include "model/reference/cell.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/matmul.h>

namespace sab::model {
namespace {

bool IsHalf(const at::Tensor& matrix) {
  return matrix.scalar_type() == at::kBFloat16;
}

// Symbols as one-hot rows times a matrix: the matrix's rows at those symbols.
at::Tensor Rows(const at::Tensor& matrix, const at::Tensor& symbols, at::ScalarType type) {
  return at::embedding(matrix, symbols).to(type);
}

}  // namespace

Weights MakeWeights(const ModelConfig& config, const ParameterSet& parameters) {
  Weights w;
  at::Tensor gate_bias_ih, gate_bias_hh;
  const auto matrix = [&config](const at::Tensor& leaf) {
    return config.precision == Precision::kBf16 ? leaf.t().to(at::kBFloat16) : leaf.t();
  };
  for (const Parameter& parameter : parameters.all()) {
    const at::Tensor leaf = parameter.value.detach().set_requires_grad(at::GradMode::is_enabled());
    const std::string& name = parameter.name;
    w.leaves.push_back(leaf);
    if (name == "cell.weight_ih") w.input = matrix(leaf);
    if (name == "cell.weight_hh") w.hidden = matrix(leaf);
    if (name == "cell.bias_ih") gate_bias_ih = leaf;
    if (name == "cell.bias_hh") gate_bias_hh = leaf;
    if (name == "attention.memory.weight") w.memory = matrix(leaf);
    if (name == "attention.query.weight") w.query = matrix(leaf);
    if (name == "attention.score.weight") w.score = leaf;
    if (name == "attention.query_score.weight") w.query_score = leaf;
    if (name == "attention.memory_score.weight") w.memory_score = leaf;
    if (name == "output.weight") w.output = matrix(leaf);
    if (name == "output.bias") w.output_bias = leaf;
    if (name == "embedding.weight") w.embedding = leaf;
  }
  w.gate_bias = gate_bias_ih + gate_bias_hh;
  return w;
}

at::Tensor Product(const at::Tensor& x, const at::Tensor& matrix) {
  if (IsHalf(matrix)) return at::matmul(x.to(at::kBFloat16), matrix).to(x.scalar_type());
  return at::matmul(x, matrix);
}

at::Tensor ProjectInputs(const Weights& weights, const at::Tensor& inputs) {
  const at::ScalarType type = weights.gate_bias.scalar_type();
  const at::Tensor by_step = inputs.transpose(0, 1);  // (t,B,..)
  if (inputs.is_floating_point()) return Product(by_step.to(type), weights.input) + weights.gate_bias;
  if (weights.embedding.defined()) {
    return Product(at::embedding(weights.embedding, by_step), weights.input) + weights.gate_bias;
  }
  return Rows(weights.input, by_step, type) + weights.gate_bias;
}

CellState StepCell(const Weights& weights, const at::Tensor& projected, const CellState& before) {
  const at::Tensor gates = IsHalf(weights.hidden) ? projected + Product(before.h, weights.hidden)
                                                  : at::addmm(projected, before.h, weights.hidden);
  const auto parts = gates.unsafe_chunk(4, 1);  // i, f, g, o
  const at::Tensor c = at::addcmul(parts[1].sigmoid() * before.c, parts[0].sigmoid(), parts[2].tanh());
  return {parts[3].sigmoid() * c.tanh(), c};
}

}  // namespace sab::model
