#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/parameters.h"

namespace sab::model {

// A network's parameters for one pass, as the operands of its products: matrices transposed, in the precision of
// products. Those that the kind of network lacks are undefined.
struct Weights {
  std::vector<at::Tensor>
      leaves;                // in the order of ParameterSet::all(), sharing its memory; gradients are taken to these
  at::Tensor input;          // (I,4H)
  at::Tensor hidden;         // (H,4H)
  at::Tensor gate_bias;      // (4H)
  at::Tensor embedding;      // (V,E)
  at::Tensor memory, query;  // (H,H)
  at::Tensor score;          // (H)
  at::Tensor query_score, memory_score;  // (H)
  at::Tensor output;                     // (2H or H, O)
  at::Tensor output_bias;                // (O)
};

// With gradients enabled the leaves require them.
Weights MakeWeights(const ModelConfig& config, const ParameterSet& parameters);

// x (..,K) times a matrix (K,N) of Weights. In fp32 or fp64 whatever the precision of the product.
at::Tensor Product(const at::Tensor& x, const at::Tensor& matrix);

// W_ih x + b_ih + b_hh for all steps at once: (B,t,I) or symbols (B,t) -> (t,B,4H).
at::Tensor ProjectInputs(const Weights& weights, const at::Tensor& inputs);

struct CellState {
  at::Tensor h;  // (B,H)
  at::Tensor c;  // (B,H)
};

// One LSTM step; `projected` (B,4H) is that step's slice of ProjectInputs.
CellState StepCell(const Weights& weights, const at::Tensor& projected, const CellState& before);

}  // namespace sab::model
