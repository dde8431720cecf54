#pragma once

#include "model/fast/block.h"

extern "C" double log(double);

// The output layer and the loss over a run of steps.
namespace sab::model::fast::SAB_ISA {

template <class T>
class Outputs {
 public:
  explicit Outputs(const Block<T>& block) : b_(block), hidden_(block.hidden()), outputs_(block.plan.outputs) {}

  // Whether a position of steps first .. first + count - 1 has a loss (or is wanted as output).
  bool AnyLoss(int64_t first, int64_t count) const;

  // These steps with states h and contexts s (count, R, H); s is null for kind lstm. Adds to the sums;
  // in training also to the gradients of the layer, and writes what it sends back to work.d_out_h and d_out_s.
  // Returns AnyLoss: without, nothing was written.
  bool Pass(int64_t first, int64_t count, const T* h, const T* s);

 private:
  bool LastStepOnly() const { return b_.plan.shape.loss != LossKind::kCrossEntropyEveryStep; }
  void Logits(int64_t positions, const T* h, const T* s) const;
  void Emit(int64_t row, int64_t t, const T* y) const;
  void Loss(int64_t row, int64_t t, T* y) const;
  void CrossEntropy(int64_t t, int64_t target, T* y) const;
  void SquaredError(int64_t row, int64_t t, T* y) const;
  void Back(int64_t positions, const T* h, const T* s) const;

  const Block<T>& b_;
  const int64_t hidden_;
  const int64_t outputs_;
};

template <class T>
bool Outputs<T>::AnyLoss(int64_t first, int64_t count) const {
  if (b_.in.outputs != nullptr || !LastStepOnly()) return true;
  for (int64_t r = 0; r < b_.rows(); ++r) {
    const int64_t last = b_.in.length(r, b_.plan.steps);
    if (last >= first && last < first + count) return true;
  }
  return false;
}

template <class T>
void Outputs<T>::Logits(int64_t positions, const T* h, const T* s) const {
  T* y = b_.work.logits;
  for (int64_t p = 0; p < positions; ++p) Copy(b_.net.out_bias, y + p * outputs_, outputs_);
  MultiplyPacked(h, hidden_, positions, {b_.net.v_h, hidden_, outputs_}, y, true);
  if (s != nullptr) MultiplyPacked(s, hidden_, positions, {b_.net.v_s, hidden_, outputs_}, y, true);
}

template <class T>
void Outputs<T>::Emit(int64_t row, int64_t t, const T* y) const {
  const int64_t real = b_.plan.shape.outputs;
  Copy(y, b_.in.outputs + (row * b_.plan.steps + t - 1) * real, real);
}

// y: logits in, dL/dlogits out.
template <class T>
void Outputs<T>::CrossEntropy(int64_t t, int64_t target, T* y) const {
  const int64_t real = b_.plan.shape.outputs;
  int64_t best = 0;
  for (int64_t o = 1; o < real; ++o) best = y[o] > y[best] ? o : best;
  const T largest = y[best], at_target = y[target];
  Vec<T> total{};
  for (int64_t o = 0; o < outputs_; o += kWidth<T>) {
    const Vec<T> e = Exp<T>(Load(y + o) - largest);
    total += e;
    Store(y + o, e);
  }
  const T sum = Sum<T>(total);
  const double loss = log(static_cast<double>(sum)) + (static_cast<double>(largest) - static_cast<double>(at_target));
  b_.sums->loss_sum += loss;
  ++b_.sums->loss_count;
  if (t > b_.in.metric_from) {
    b_.sums->scored_loss_sum += loss;
    ++b_.sums->scored_count;
    b_.sums->correct_count += best == target;
  }
  const T scale = static_cast<T>(b_.in.loss_scale), factor = scale / sum;
  for (int64_t o = 0; o < outputs_; o += kWidth<T>) Store(y + o, Load(y + o) * factor);
  y[target] -= scale;
  for (int64_t o = real; o < outputs_; ++o) y[o] = 0;
}

template <class T>
void Outputs<T>::SquaredError(int64_t row, int64_t t, T* y) const {
  const int64_t real = b_.plan.shape.outputs;
  const T* target = b_.in.target_values + row * real;
  double loss = 0;
  for (int64_t o = 0; o < real; ++o) {
    const T gap = y[o] - target[o];
    loss += static_cast<double>(gap) * static_cast<double>(gap);
    y[o] = static_cast<T>(2 * b_.in.loss_scale) * gap;
  }
  b_.sums->loss_sum += loss;
  b_.sums->loss_count += real;
  if (t > b_.in.metric_from) {
    b_.sums->scored_loss_sum += loss;
    b_.sums->scored_count += real;
  }
}

template <class T>
void Outputs<T>::Loss(int64_t row, int64_t t, T* y) const {
  const int64_t length = b_.in.length(row, b_.plan.steps);
  if (t > length || (LastStepOnly() && t != length)) {
    Zero(y, outputs_);
  } else if (b_.plan.shape.loss == LossKind::kMseLastStep) {
    SquaredError(row, t, y);
  } else {
    CrossEntropy(t, b_.in.targets[LastStepOnly() ? row : row * b_.plan.steps + t - 1], y);
  }
}

template <class T>
void Outputs<T>::Back(int64_t positions, const T* h, const T* s) const {
  const Gradients<T>& g = *b_.gradients;
  const T* d = b_.work.logits;
  for (int64_t p = 0; p < positions; ++p) Add(d + p * outputs_, g.out_bias, outputs_);
  MultiplyPacked(d, outputs_, positions, {b_.net.v_h_back, outputs_, hidden_}, b_.work.d_out_h, false);
  const OuterOperand<T> left{d, outputs_, outputs_, g.v_h};
  AddOuterProducts(&left, 1, h, hidden_, positions, hidden_, b_.work.outer);
  if (s == nullptr) return;
  MultiplyPacked(d, outputs_, positions, {b_.net.v_s_back, outputs_, hidden_}, b_.work.d_out_s, false);
  const OuterOperand<T> context{d, outputs_, outputs_, g.v_s};
  AddOuterProducts(&context, 1, s, hidden_, positions, hidden_, b_.work.outer);
}

template <class T>
bool Outputs<T>::Pass(int64_t first, int64_t count, const T* h, const T* s) {
  if (!AnyLoss(first, count)) return false;
  const Timed timed(b_.in.ticks, kOutputs);
  const int64_t rows = b_.rows();
  Logits(count * rows, h, s);
  for (int64_t p = 0; p < count; ++p)
    for (int64_t r = 0; r < rows; ++r) {
      T* y = b_.work.logits + (p * rows + r) * outputs_;
      if (b_.in.outputs != nullptr) {
        Emit(r, first + p, y);
      } else {
        Loss(r, first + p, y);
      }
    }
  if (b_.gradients != nullptr) Back(count * rows, h, s);
  return true;
}

}  // namespace sab::model::fast::SAB_ISA
