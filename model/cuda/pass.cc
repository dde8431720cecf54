#include "model/cuda/pass.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/cuda/packed_weights.h"

namespace sab::model::cuda {
namespace {

using at::Tensor;

template <class V>
V* Pointer(const Tensor& t) {
  return t.defined() ? t.mutable_data_ptr<V>() : nullptr;
}

bool IsHalf(const Plan& plan) {
  return plan.config.precision == Precision::kBf16;
}

// (n,B,X) -> (n B, X)
Tensor Flat(const Tensor& t) {
  return t.flatten(0, 1);
}

}  // namespace

template <class T>
Pass<T>::Pass(const Plan& plan, ParameterSet& parameters, const OuterLayers& layers, const Batch& batch,
              Launcher& launcher)
    : plan_(plan),
      parameters_(parameters),
      layers_(layers),
      batch_(batch),
      launcher_(launcher),
      rows_(plan.rows),
      hidden_(plan.config.hidden_size),
      options_(parameters.values().options()) {
  lengths_ = batch.lengths.defined() ? batch.lengths : at::full({rows_}, plan.steps, options_.dtype(at::kLong));
  MakeSweeps();
  Allocate();
}

template <class T>
void Pass<T>::MakeSweeps() {
  const DeviceLimits limits = launcher_.Limits();
  const NumberSizes sizes{sizeof(T), IsHalf(plan_) ? sizeof(BFloat16) : sizeof(T)};
  const auto find = [&](const char* name) {
    return plan_.has_keys() ? parameters_.Get(name).value.detach() : Tensor();
  };
  const auto make = [&](bool backward, SweepShape* shape, Tensor* weights) {
    *shape = ChooseSweep(plan_.config, rows_, backward, limits, sizes);
    if (shape->shared_bytes > static_cast<size_t>(limits.shared_bytes)) {
      throw std::runtime_error("hidden_size: a kernel needs " + std::to_string(shape->shared_bytes) +
                               " bytes of shared memory; use engine: reference");
    }
    *weights = PackWeights(parameters_.Get("cell.weight_hh").value.detach(), find("attention.query.weight"),
                           find("attention.memory.weight"), *shape, backward);
    if (IsHalf(plan_)) *weights = weights->to(at::kBFloat16);
  };
  make(false, &forward_shape_, &forward_weights_);
  if (plan_.backward) make(true, &backward_shape_, &backward_weights_);
  barrier_ = at::zeros({rows_}, options_.dtype(at::kInt));
}

template <class T>
Tensor Pass<T>::Make(int64_t count, at::ScalarType type, at::IntArrayRef sizes) const {
  return count > 0 ? at::empty({count}, options_.dtype(type)).view(sizes) : Tensor();
}

template <class T>
void Pass<T>::Allocate() {
  const KeptElements e = KeptElementsOf(plan_);
  const at::ScalarType type = options_.dtype().toScalarType();
  gates_ = Make(e.gates, type, {-1, rows_, 4 * hidden_});
  c_ = Make(e.c, type, {-1, rows_, hidden_});
  h_ = Make(e.h, type, {-1, rows_, hidden_});
  c_.select(0, 0).zero_();
  h_.select(0, 0).zero_();
  starts_ = Make(e.starts, type, {-1, 2, rows_, hidden_});
  hat_ = Make(e.hat, type, {-1, rows_, hidden_});
  context_ = Make(e.context, type, {-1, rows_, hidden_});
  query_ = Make(e.query, type, {-1, rows_, hidden_});
  normaliser_ = Make(e.normaliser, type, {-1, rows_});
  memory_ = Make(e.memory, type, {-1, rows_, hidden_});
  key_ = Make(e.key, type, {-1, rows_, hidden_});
  if (memory_.defined()) memory_.select(0, 0).zero_();
  if (plan_.recalls()) AllocateRecall();
  if (plan_.backward) AllocateBackward();
}

template <class T>
void Pass<T>::AllocateRecall() {
  const KeptElements e = KeptElementsOf(plan_);
  const at::ScalarType type = options_.dtype().toScalarType();
  recalled_ = Make(e.recalled, at::kInt, {-1, rows_, plan_.config.k_top + 1});
  alpha_ = Make(e.alpha, type, {-1, rows_, plan_.config.k_top});
  exp_key_ = Make(e.exp_key, type, {-1, rows_, hidden_});
  rough_ = Make(e.rough, type, {rows_, -1});
  if (key_.defined()) {
    key_.select(0, 0).zero_();
    exp_key_.select(0, 0).fill_(1);
  }
  salience_ = Make(e.salience, type, {-1, rows_});
  leader_score_ = Make(e.leaders, type, {rows_, -1});
  leader_index_ = Make(e.leaders, at::kInt, {rows_, -1});
  place_memory_ = Make(e.places, at::kInt, {rows_, -1});
  credit_ = Make(e.places, at::kDouble, {rows_, -1});
}

template <class T>
void Pass<T>::AllocateBackward() {
  const KeptElements e = KeptElementsOf(plan_);
  const at::ScalarType type = options_.dtype().toScalarType();
  const auto zeros = [&](int64_t count, at::IntArrayRef sizes) {
    return count > 0 ? at::zeros({count}, options_.dtype(type)).view(sizes) : Tensor();
  };
  for (Tensor* t : {&d_h_, &d_c_, &d_hat_, &d_write_, &d_score_, &d_query_score_}) {
    *t = zeros(rows_ * hidden_, {rows_, hidden_});
  }
  d_memory_ = zeros(e.d_memory, {-1, rows_, hidden_});
  d_key_ = zeros(e.d_key, {-1, rows_, hidden_});
  d_salience_ = zeros(e.d_salience, {-1, rows_});
  d_states_ = Make(e.d_states, type, {-1, rows_, hidden_});
  d_context_ = Make(e.d_context, type, {-1, rows_, hidden_});
  d_query_ = Make(e.d_query, type, {-1, rows_, hidden_});
  d_score_tiles_ = Make(e.d_score_tiles, type, {-1, rows_, hidden_});
}

template <class T>
typename Pass<T>::Piece Pass<T>::PieceAt(int64_t chunk) const {
  Piece piece;
  piece.first = chunk * plan_.chunk;
  piece.count = std::min(plan_.chunk, plan_.steps - piece.first);
  piece.slot = plan_.backward && !plan_.recompute ? piece.first : 0;
  piece.recall_slot = plan_.backward ? piece.first : 0;
  return piece;
}

template <class T>
void Pass<T>::PointAtMemories(SweepArguments<T>* a) const {
  a->recalled = Pointer<int32_t>(recalled_);
  a->alpha = Pointer<T>(alpha_);
  a->normaliser = Pointer<T>(normaliser_);
  a->memory = Pointer<T>(memory_);
  a->key = Pointer<T>(key_);
  a->exp_key = Pointer<T>(exp_key_);
  a->rough = Pointer<T>(rough_);
  a->salience = Pointer<T>(salience_);
  a->leader_score = Pointer<T>(leader_score_);
  a->leader_index = Pointer<int32_t>(leader_index_);
  a->place_memory = Pointer<int32_t>(place_memory_);
  a->credit = Pointer<double>(credit_);
  a->d_memory = Pointer<T>(d_memory_);
  a->d_key = Pointer<T>(d_key_);
  a->d_salience = Pointer<T>(d_salience_);
}

template <class T>
SweepArguments<T> Pass<T>::ArgumentsOf(const Piece& piece, const SweepShape& shape) const {
  SweepArguments<T> a = MakeArguments<T>(plan_, shape, &shape == &backward_shape_);
  a.barrier.counter = reinterpret_cast<unsigned*>(Pointer<int32_t>(barrier_));
  a.first = piece.first + 1;
  a.last = piece.first + piece.count;
  a.first_slot = piece.slot;
  a.first_recall_slot = piece.recall_slot;
  a.weights = (&shape == &backward_shape_ ? backward_weights_ : forward_weights_).const_data_ptr();
  if (plan_.recalls()) {
    const char* score = plan_.has_keys() ? "attention.score.weight" : "attention.memory_score.weight";
    a.score = Pointer<T>(parameters_.Get(score).value);
    if (!plan_.has_keys()) a.query_score = Pointer<T>(parameters_.Get("attention.query_score.weight").value);
    PointAtMemories(&a);
  }
  a.gates = Pointer<T>(gates_);
  a.c = Pointer<T>(c_);
  a.h = Pointer<T>(h_);
  a.hat = Pointer<T>(hat_);
  a.context = Pointer<T>(context_);
  a.query = Pointer<T>(query_);
  a.d_h = Pointer<T>(d_h_);
  a.d_c = Pointer<T>(d_c_);
  a.d_hat = Pointer<T>(d_hat_);
  a.d_write = Pointer<T>(d_write_);
  a.d_score = Pointer<T>(d_score_);
  a.d_query_score = Pointer<T>(d_query_score_);
  return a;
}

template <class T>
void Pass<T>::ForwardPiece(const Piece& piece, bool replay) {
  gates_.narrow(0, piece.slot, piece.count).copy_(layers_.Project(batch_, piece.first, piece.count));
  barrier_.zero_();
  SweepArguments<T> arguments = ArgumentsOf(piece, forward_shape_);
  arguments.replay = replay;
  launcher_.Sweep(/*backward=*/false, IsHalf(plan_), forward_shape_, arguments);
}

template <class T>
States Pass<T>::StatesOf(const Piece& piece) const {
  if (plan_.attends()) {
    return {.hidden = memory_.narrow(0, piece.first + 1, piece.count),
            .context = context_.narrow(0, piece.first, piece.count)};
  }
  States states{.hidden = h_.narrow(0, piece.slot + 1, piece.count)};
  if (!plan_.recalls()) return states;
  states.context = context_.narrow(0, piece.slot, piece.count);
  if (plan_.config.tie_guard > 0) {
    states.guarded = normaliser_.narrow(0, piece.recall_slot, piece.count) < plan_.config.tie_guard;
  }
  return states;
}

template <class T>
void Pass<T>::Forward(const Visit& visit) {
  for (int64_t chunk = 0; chunk < plan_.chunks(); ++chunk) {
    const Piece piece = PieceAt(chunk);
    if (chunk > 0 && piece.slot == 0) {
      h_.select(0, 0).copy_(h_.select(0, plan_.chunk));
      c_.select(0, 0).copy_(c_.select(0, plan_.chunk));
    }
    if (plan_.recompute) {
      starts_.select(0, chunk).select(0, 0).copy_(h_.select(0, 0));
      starts_.select(0, chunk).select(0, 1).copy_(c_.select(0, 0));
    }
    ForwardPiece(piece, /*replay=*/false);
    if (plan_.attends()) {
      memory_.narrow(0, piece.first + 1, piece.count).copy_(h_.narrow(0, piece.slot + 1, piece.count));
    } else {
      visit(piece, StatesOf(piece));
    }
  }
  if (!plan_.attends()) return;
  Attend();
  for (int64_t chunk = 0; chunk < plan_.chunks(); ++chunk) visit(PieceAt(chunk), StatesOf(PieceAt(chunk)));
}

template <class T>
PassSums Pass<T>::Evaluate() {
  LossSum sum(layers_.shape(), layers_.weights(), batch_);
  Forward([&](const Piece& piece, const States& states) { sum.Add(states, piece.first); });
  PassSums sums = sum.Sums();
  sums.guarded_count = 0;
  return sums;
}

template <class T>
Tensor Pass<T>::Outputs() {
  std::vector<Tensor> pieces;
  Forward([&](const Piece&, const States& states) { pieces.push_back(Output(layers_.weights(), states)); });
  return at::cat(pieces).transpose(0, 1).contiguous();
}

template <class T>
Tensor Pass<T>::Train(double loss_scale) {
  const at::NoGradGuard no_grad;
  LossSum sum(layers_.shape(), layers_.weights(), batch_);
  Forward([&](const Piece& piece, const States& states) {
    sum.Add(states, piece.first);
    if (layers_.shape().loss != LossKind::kCrossEntropyEveryStep) KeepLast(piece, states);
  });
  if (last_.hidden.defined()) d_last_ = layers_.BackwardLastStep(batch_, last_, loss_scale);
  if (plan_.attends()) BackwardAttention(loss_scale);
  Backward(loss_scale);
  return sum.Figures();
}

// values (count,B,H) at each row's last step where it lies in the piece, otherwise what was kept: (1,B,H).
template <class T>
Tensor Pass<T>::PickLast(const Tensor& values, const Tensor& kept, const Piece& piece) const {
  const Tensor position = lengths_ - 1 - piece.first;  // (B)
  const Tensor index = position.clamp(0, piece.count - 1).view({1, -1, 1}).expand({1, rows_, hidden_});
  const Tensor picked = values.gather(0, index);
  if (!kept.defined()) return picked;
  const Tensor here = (position >= 0).logical_and(position < piece.count).view({1, -1, 1});
  return at::where(here, picked, kept);
}

template <class T>
void Pass<T>::KeepLast(const Piece& piece, const States& states) {
  last_.hidden = PickLast(states.hidden, last_.hidden, piece);
  if (states.context.defined()) last_.context = PickLast(states.context, last_.context, piece);
}

// (1,B,H) -> (count,B,H): at each row's last step, 0 elsewhere.
template <class T>
Tensor Pass<T>::SpreadLast(const Tensor& d_last, const Piece& piece) const {
  if (!d_last.defined()) return d_last;
  const Tensor step = at::arange(piece.first, piece.first + piece.count, lengths_.options()).view({-1, 1, 1});
  return at::where(step == (lengths_ - 1).view({1, -1, 1}), d_last, at::zeros({}, options_)).contiguous();
}

template <class T>
typename Pass<T>::OutputGradients Pass<T>::OutputGradientsOf(const Piece& piece, double loss_scale) {
  if (last_.hidden.defined()) return {SpreadLast(d_last_.hidden, piece), SpreadLast(d_last_.context, piece)};
  const OuterLayers::StateGradients d = layers_.BackwardEveryStep(batch_, piece.first, StatesOf(piece), loss_scale);
  return {d.hidden, d.context};
}

template <class T>
void Pass<T>::Restore(const Piece& piece, int64_t chunk) {
  if (!plan_.recompute || chunk == plan_.chunks() - 1) return;
  h_.select(0, 0).copy_(starts_.select(0, chunk).select(0, 0));
  c_.select(0, 0).copy_(starts_.select(0, chunk).select(0, 1));
  ForwardPiece(piece, /*replay=*/true);
}

template <class T>
void Pass<T>::BackwardPiece(const Piece& piece, const OutputGradients& d_out) {
  barrier_.zero_();
  SweepArguments<T> arguments = ArgumentsOf(piece, backward_shape_);
  arguments.d_out_h = Pointer<T>(d_out.hidden);
  arguments.d_out_s = Pointer<T>(d_out.context);
  launcher_.Sweep(/*backward=*/true, IsHalf(plan_), backward_shape_, arguments);
}

template <class T>
void Pass<T>::WeightGradients(const Piece& piece) {
  const Tensor d_gates = gates_.narrow(0, piece.slot, piece.count);
  const Tensor before = h_.narrow(0, piece.slot, piece.count);
  layers_.AddGradient("cell.weight_hh", at::matmul(Flat(d_gates).t(), Flat(before)));
  layers_.BackwardProject(batch_, piece.first, piece.count, d_gates);
  if (!plan_.has_keys()) return;
  const Tensor d_query = query_.narrow(0, piece.slot, piece.count), hat = hat_.narrow(0, piece.slot, piece.count);
  layers_.AddGradient("attention.query.weight", at::matmul(Flat(d_query).t(), Flat(hat)));
}

template <class T>
void Pass<T>::KeyWeightGradients() {
  if (!plan_.has_keys()) {
    layers_.AddGradient("attention.memory_score.weight", d_score_.sum(0));
    layers_.AddGradient("attention.query_score.weight", d_query_score_.sum(0));
    return;
  }
  layers_.AddGradient("attention.score.weight", d_score_.sum(0));
  layers_.AddGradient("attention.memory.weight", at::matmul(Flat(d_key_).t(), Flat(memory_)));
}

template <class T>
void Pass<T>::Backward(double loss_scale) {
  for (int64_t chunk = plan_.chunks() - 1; chunk >= 0; --chunk) {
    const Piece piece = PieceAt(chunk);
    Restore(piece, chunk);
    const OutputGradients d_out = plan_.attends()
                                      ? OutputGradients{d_states_.narrow(0, piece.first, piece.count), Tensor()}
                                      : OutputGradientsOf(piece, loss_scale);
    BackwardPiece(piece, d_out);
    WeightGradients(piece);
  }
  if (plan_.recalls()) KeyWeightGradients();
}

template <class T>
AttentionArguments<T> Pass<T>::AttentionArgumentsOf() const {
  AttentionArguments<T> a;
  a.rows = static_cast<int>(rows_);
  a.hidden = static_cast<int>(hidden_);
  a.steps = static_cast<int>(plan_.steps);
  a.softmax = plan_.config.normaliser == Normaliser::kSoftmax;
  a.score = Pointer<T>(parameters_.Get("attention.score.weight").value);
  a.memory = Pointer<T>(memory_);
  a.key = Pointer<T>(key_);
  a.query = Pointer<T>(query_);
  a.context = Pointer<T>(context_);
  a.normaliser = Pointer<T>(normaliser_);
  a.d_context = Pointer<T>(d_context_);
  a.d_query = Pointer<T>(d_query_);
  a.d_key = Pointer<T>(d_key_);
  a.d_memory = Pointer<T>(d_memory_);
  a.d_score = Pointer<T>(d_score_tiles_);
  return a;
}

template <class T>
void Pass<T>::Attend() {
  key_.copy_(Product(memory_.narrow(0, 0, plan_.steps), layers_.weights().memory));
  query_.copy_(Product(memory_.narrow(0, 1, plan_.steps), layers_.weights().query));
  launcher_.Attend(/*backward=*/false, AttentionArgumentsOf());
}

// From the outputs to d_states_, what outputs and attention send to every h_t.
template <class T>
void Pass<T>::BackwardAttention(double loss_scale) {
  for (int64_t chunk = 0; chunk < plan_.chunks(); ++chunk) {
    const Piece piece = PieceAt(chunk);
    const OutputGradients d = OutputGradientsOf(piece, loss_scale);
    d_states_.narrow(0, piece.first, piece.count).copy_(d.hidden);
    d_context_.narrow(0, piece.first, piece.count).copy_(d.context);
  }
  launcher_.Attend(/*backward=*/true, AttentionArgumentsOf());
  const Tensor memories = memory_.narrow(0, 0, plan_.steps), states = memory_.narrow(0, 1, plan_.steps);
  layers_.AddGradient("attention.score.weight", Flat(d_score_tiles_).sum(0));
  layers_.AddGradient("attention.memory.weight", at::matmul(Flat(d_key_).t(), Flat(memories)));
  layers_.AddGradient("attention.query.weight", at::matmul(Flat(d_query_).t(), Flat(states)));
  d_memory_.add_(Product(d_key_, parameters_.Get("attention.memory.weight").value.detach()));
  d_states_.add_(Product(d_query_, parameters_.Get("attention.query.weight").value.detach()));
  if (plan_.steps > 1) {
    d_states_.narrow(0, 0, plan_.steps - 1).add_(d_memory_.narrow(0, 1, plan_.steps - 1));
  }
}

template class Pass<float>;
template class Pass<double>;

}  // namespace sab::model::cuda
