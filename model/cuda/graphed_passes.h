#pragma once

#include <ATen/core/Tensor.h>

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/batch.h"
#include "model/cuda/launcher.h"
#include "model/parameters.h"

namespace sab::model::cuda {

// Training passes, each one launch of a graph where that can be: after two plain passes of a kind in a row one is
// recorded, with a copy of the batch that the others are copied into. The next one of the kind is done both ways, and
// only when its bits are the same are those that follow replayed. Whatever fails until then, and any difference, leaves
// the plain pass's results, is warned of once, and ends the use of graphs for good.
//
// What is recorded are the operations, not the C++ around them. So a pass may
// - not read from the device: no item(), nonzero(), masks as indices, nothing whose size depends on data;
// - not copy from the host: no tensors made of the host's numbers (at::full, at::arange and scalars as arguments are
//   kernels' arguments, and fine);
// - use no memory but the batch's, the parameters' and what it allocates itself, and no other stream;
// - leave its results in the gradients and in the tensor that it returns.
// Numbers of the host keep the value that they had: all that can change between passes are part of the kind.
//
// At most one graph is kept, the last. One thread calls.
class GraphedPasses {
 public:
  // Enqueues a training pass, which adds to the gradients, and returns its figures (LossSum::Figures).
  using Train = std::function<at::Tensor(const Batch& batch, double loss_scale)>;

  // `parameters` and `launcher` must outlive it. What `train` does besides its arguments must not change.
  GraphedPasses(Train train, ParameterSet& parameters, Launcher& launcher);

  // As `train`. What it returned last is overwritten.
  at::Tensor Run(const Batch& batch, double loss_scale);

 private:
  // Passes of one kind differ in the contents of their tensors alone.
  struct PassKind {
    std::vector<int64_t> inputs, targets;  // sizes and strides
    at::ScalarType inputs_type = at::kFloat, targets_type = at::kFloat;
    bool has_lengths = false;
    int64_t metric_from = 0;
    double loss_scale = 0;
    const void* values = nullptr;  // where the parameters lie
    const void* gradients = nullptr;

    bool operator==(const PassKind&) const = default;
  };
  struct Captured {
    PassKind kind;
    Batch batch;         // what is replayed reads this
    at::Tensor figures;  // and writes this
    std::unique_ptr<Graph> graph;
    bool proven = false;
  };

  PassKind KindOf(const Batch& batch, double loss_scale) const;
  void Capture(const PassKind& kind, const Batch& batch, const at::Tensor& figures);
  at::Tensor Replay(const Batch& batch);
  // A plain pass and a replay; that of the plain one stays.
  at::Tensor Prove(const Batch& batch, double loss_scale);
  void GiveUp(const std::string& why);

  const Train train_;
  ParameterSet& parameters_;
  Launcher& launcher_;
  PassKind last_;
  int in_a_row_ = 0;  // passes of kind last_
  std::unique_ptr<Captured> captured_;
  bool given_up_ = false;
};

}  // namespace sab::model::cuda
