#pragma once

// The table of kernels of one instruction set: each kernels_*.cc names the set as SAB_ISA and includes this.
#include "model/fast/sweep.h"

namespace sab::model::fast::SAB_ISA {
namespace {

// (count, real) -> (count, padded), zeros behind; at stride `to` elements.
template <class T>
void PadRows(const T* from, int64_t count, int64_t real, T* to, int64_t padded) {
  for (int64_t r = 0; r < count; ++r) {
    Zero(to + r * padded, padded);
    if (from != nullptr) Copy(from + r * real, to + r * padded, real);
  }
}

// Packs a weight (rows, columns) with row stride `stride`, whose rows come in `parts` equal groups padded each to
// padded_rows / parts: as the right side of x W^T (`forward`) and of x W (`back`). `wide` is scratch of the padded
// size.
template <class T>
struct PaddedWeight {
  const T* w;
  int64_t rows, columns, stride, padded_rows, padded_columns;
  int64_t parts = 1;

  void Pack(T* forward, T* back, T* wide) const {
    Zero(wide, padded_rows * padded_columns);
    const int64_t group = rows / parts, padded_group = padded_rows / parts;
    for (int64_t r = 0; r < rows; ++r) {
      Copy(w + r * stride, wide + (r / group * padded_group + r % group) * padded_columns, columns);
    }
    PackPanels(wide, 1, padded_columns, padded_columns, padded_rows, forward);
    PackPanels(wide, padded_columns, 1, padded_rows, padded_columns, back);
  }
};

template <class T>
void PackGates(const Plan& p, const NetView<T>& net, PackedNet<T>* out) {
  const int64_t h = p.config.hidden_size;
  const int64_t sources = p.inputs + p.symbols;
  for (int64_t part = 0; part < 4; ++part) {
    T* bias = out->bias + part * p.hidden;
    Zero(bias, p.hidden);
    for (int64_t j = 0; j < h; ++j) bias[j] = net.b_ih[part * h + j] + net.b_hh[part * h + j];
    for (int64_t s = 0; s < sources; ++s) {
      T* row = out->input_gates + (s * 4 + part) * p.hidden;
      Zero(row, p.hidden);
      for (int64_t j = 0; j < h; ++j) row[j] = net.input_gates[(s * 4 + part) * h + j] + (p.symbols > 0 ? bias[j] : 0);
    }
  }
}

template <class T>
void Pack(const Plan& p, const NetView<T>& net, PackedNet<T>* out, T* wide) {
  const int64_t h = p.config.hidden_size, features = p.attends() ? 2 * h : h;
  PackGates(p, net, out);
  PaddedWeight<T>{net.w_hh, 4 * h, h, h, 4 * p.hidden, p.hidden, 4}.Pack(out->w_hh, out->w_hh_back, wide);
  if (p.has_keys()) {
    PaddedWeight<T>{net.w_m, h, h, h, p.hidden, p.hidden}.Pack(out->w_m, out->w_m_back, wide);
    PaddedWeight<T>{net.w_q, h, h, h, p.hidden, p.hidden}.Pack(out->w_q, out->w_q_back, wide);
  }
  if (p.attends()) PadRows(net.score, 1, h, out->score, p.hidden);
  if (p.is_separable()) PadRows(net.query_score, 1, h, out->query_score, p.hidden);
  const int64_t o = p.shape.outputs;
  PaddedWeight<T>{net.v, o, h, features, p.outputs, p.hidden}.Pack(out->v_h, out->v_h_back, wide);
  if (p.attends()) PaddedWeight<T>{net.v + h, o, h, features, p.outputs, p.hidden}.Pack(out->v_s, out->v_s_back, wide);
  PadRows(net.out_bias, 1, o, out->out_bias, p.outputs);
  const bool classes = p.shape.loss != LossKind::kMseLastStep;
  for (int64_t i = o; classes && i < p.outputs; ++i) out->out_bias[i] = static_cast<T>(-1e30);
  out->score_weight_sum = 0;
  for (int64_t j = 0; p.attends() && j < h; ++j) out->score_weight_sum += net.score[j];
  out->score_error = p.attends() ? ScoreError(out->score, p.hidden) : 0;
}

template <class T>
bool Train(const Plan& plan, const PackedNet<T>& net, const BlockInput<T>& input, const Workspace<T>& work,
           const Gradients<T>& gradients, BlockSums* sums) {
  const Block<T> block{plan, net, input, work, &gradients, sums};
  return Sweep<T>(block).Train();
}

template <class T>
void Evaluate(const Plan& plan, const PackedNet<T>& net, const BlockInput<T>& input, const Workspace<T>& work,
              BlockSums* sums) {
  const Block<T> block{plan, net, input, work, nullptr, sums};
  Sweep<T>(block).Evaluate();
}

template <class T>
void Apply(int function, const T* x, T* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kWidth<T>) {
    const Vec<T> v = Load(x + i);
    Store(y + i, function == 0 ? Exp<T>(v) : function == 1 ? Tanh<T>(v) : Sigmoid<T>(v));
  }
}

#define SAB_STRING_(x) #x
#define SAB_STRING(x) SAB_STRING_(x)

template <class T>
constexpr Kernels<T> kTable = {SAB_STRING(SAB_ISA), &Pack<T>, &Train<T>, &Evaluate<T>, &Apply<T>};

}  // namespace

extern const Kernels<float> kFloatKernels;
extern const Kernels<double> kDoubleKernels;
const Kernels<float> kFloatKernels = kTable<float>;
const Kernels<double> kDoubleKernels = kTable<double>;

}  // namespace sab::model::fast::SAB_ISA
