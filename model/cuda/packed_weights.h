#pragma once

#include <ATen/core/Tensor.h>

#include "model/cuda/plan.h"

namespace sab::model::cuda {

// Packs the recurrent weights for a sweep in which groups have `group` blocks of `units` hidden units: (group, slice),
// one block's slices of W_hh, W_q and W_m after one another (PackedSizesOf). Forward a slice is (H, columns) with the
// gates i, f, g, o of a unit side by side; backward, for the transposed products, (4H, columns). w_q and w_m are
// undefined where the network has none.
at::Tensor PackWeights(const at::Tensor& w_hh, const at::Tensor& w_q, const at::Tensor& w_m, const SweepShape& shape,
                       bool backward);

}  // namespace sab::model::cuda
