#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/batch.h"
#include "model/config.h"
#include "model/parameters.h"

namespace sab::model {

// Kind sab with `recall: top`, and kind lstm, written out row by row in plain double arithmetic, the backward pass by
// the formulas of the definition and not by autograd. For float inputs and a cross-entropy at every step.

using Vector = std::vector<double>;
using PlainParameters = std::map<std::string, Vector>;  // by name, row-major

// The h and c that truncation cuts off, in order of (row, boundary): what finite differences must hold fixed.
using Boundaries = std::vector<std::pair<Vector, Vector>>;

struct PlainOptions {
  bool latest_tie_first = false;      // equal scores ranked by index descending: wrong, to show that it matters
  const Boundaries* fixed = nullptr;  // used in place of the states at the boundaries
  bool forward_only = false;
};

struct PlainResult {
  double loss = 0;            // sum over positions
  PlainParameters gradients;  // of it
  Boundaries boundaries;
  double smallest_gap = 1e300;  // between the k_top-th, (k_top+1)-th and (k_top+2)-th scores, over all sparse steps
  double smallest_z = 1e300;
  double largest_value = 0;  // of |h|, element by element
  int64_t guarded = 0;
};

PlainParameters ToPlain(const ParameterSet& parameters, bool gradients);
PlainResult RunPlain(const ModelConfig& config, const PlainParameters& parameters, const Batch& batch,
                     const PlainOptions& options = {});

}  // namespace sab::model
