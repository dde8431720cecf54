#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "model/batch.h"
#include "model/cuda/launcher.h"
#include "model/cuda/outer_layers.h"
#include "model/cuda/plan.h"
#include "model/parameters.h"

namespace sab::model::cuda {

// One pass over a batch: the tensors that kernels work on, and the order of things. Used once.
template <class T>
class Pass {
 public:
  // All of them must outlive it.
  Pass(const Plan& plan, ParameterSet& parameters, const OuterLayers& layers, const Batch& batch, Launcher& launcher);

  // Enqueues Engine::ForwardBackward and returns the figures of its LossSum, without waiting for the device. It may be
  // recorded and played back: graphed_passes.h has what it must not do.
  at::Tensor Train(double loss_scale);
  // Each as the function of model/engine.h.
  PassSums Evaluate();
  at::Tensor Outputs();

 private:
  // Steps first + 1 .. first + count (from 1) and the slots that hold their states.
  struct Piece {
    int64_t first = 0;
    int64_t count = 0;
    int64_t slot = 0;
    int64_t recall_slot = 0;
  };
  struct OutputGradients {
    at::Tensor hidden, context;  // (T,B,H) or, of one piece, (count,B,H)
  };
  using Visit = std::function<void(const Piece&, const States&)>;

  void Allocate();
  void AllocateRecall();
  void AllocateBackward();
  void MakeSweeps();
  Piece PieceAt(int64_t chunk) const;
  SweepArguments<T> ArgumentsOf(const Piece& piece, const SweepShape& shape) const;
  void PointAtMemories(SweepArguments<T>* a) const;

  // Forward through the whole sequence; `visit` sees each piece's states, in order.
  void Forward(const Visit& visit);
  void ForwardPiece(const Piece& piece, bool replay);
  void Attend();
  States StatesOf(const Piece& piece) const;

  void KeepLast(const Piece& piece, const States& states);
  at::Tensor PickLast(const at::Tensor& values, const at::Tensor& kept, const Piece& piece) const;
  void Backward(double loss_scale);
  OutputGradients OutputGradientsOf(const Piece& piece, double loss_scale);
  at::Tensor SpreadLast(const at::Tensor& d_last, const Piece& piece) const;
  void Restore(const Piece& piece, int64_t chunk);
  void BackwardPiece(const Piece& piece, const OutputGradients& d_out);
  void WeightGradients(const Piece& piece);
  void KeyWeightGradients();
  void BackwardAttention(double loss_scale);
  AttentionArguments<T> AttentionArgumentsOf() const;

  at::Tensor Make(int64_t count, at::ScalarType type, at::IntArrayRef sizes) const;

  const Plan plan_;
  ParameterSet& parameters_;
  const OuterLayers& layers_;
  const Batch& batch_;
  Launcher& launcher_;
  const int64_t rows_, hidden_;
  const at::TensorOptions options_;
  at::Tensor lengths_;  // (B)

  SweepShape forward_shape_, backward_shape_;
  at::Tensor forward_weights_, backward_weights_, barrier_;

  // As in SweepArguments and AttentionArguments; undefined where the plan has none.
  at::Tensor gates_, c_, h_, hat_, context_, query_, starts_;
  at::Tensor recalled_, alpha_, normaliser_, memory_, key_, exp_key_, rough_, salience_, leader_score_, leader_index_;
  at::Tensor place_memory_, credit_;
  at::Tensor d_memory_, d_key_, d_salience_, d_h_, d_c_, d_hat_, d_write_, d_score_, d_query_score_;
  at::Tensor d_states_, d_context_, d_query_, d_score_tiles_;

  States last_;                         // (1,B,H) at each row's last step
  OuterLayers::StateGradients d_last_;  // (1,B,H)
};

}  // namespace sab::model::cuda
