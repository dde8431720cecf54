#pragma once

#include <cstdint>
#include <vector>

#include "model/fast/plan.h"

namespace sab::model::fast {

// Between the parameters of the input (W_ih, embedding) and the table that the kernels add up: one row of 4H gate
// arguments for each float channel or symbol. Sums in a fixed order.
template <class T>
class InputLayer {
 public:
  // w_ih (4H, I, V or E); embedding (V, E) or null.
  InputLayer(const Plan& plan, int64_t embedding_size, const T* w_ih, const T* embedding)
      : plan_(plan),
        hidden_(plan.config.hidden_size),
        sources_(plan.inputs + plan.symbols),
        columns_(embedding_size > 0 ? embedding_size : sources_),
        w_ih_(w_ih),
        embedding_(embedding) {}

  int64_t table_size() const { return sources_ * 4 * hidden_; }

  // table (I or V, 4H), unpadded.
  void MakeTable(T* table) const {
    for (int64_t s = 0; s < sources_; ++s)
      for (int64_t j = 0; j < 4 * hidden_; ++j) {
        const T* w = w_ih_ + j * columns_;
        table[s * 4 * hidden_ + j] = embedding_ == nullptr ? w[s] : Dot(embedding_ + s * columns_, w, columns_);
      }
  }

  // d_table (I or V, 4H), padded: adds to the gradients of w_ih and embedding.
  void AddGradients(const T* d_table, T* d_w_ih, T* d_embedding) const {
    for (int64_t s = 0; s < sources_; ++s)
      for (int64_t j = 0; j < 4 * hidden_; ++j) {
        const T d = d_table[s * 4 * plan_.hidden + j / hidden_ * plan_.hidden + j % hidden_];
        if (embedding_ == nullptr) {
          d_w_ih[j * columns_ + s] += d;
          continue;
        }
        if (d == 0) continue;
        const T* row = embedding_ + s * columns_;
        for (int64_t e = 0; e < columns_; ++e) d_w_ih[j * columns_ + e] += d * row[e];
        for (int64_t e = 0; e < columns_; ++e) d_embedding[s * columns_ + e] += d * w_ih_[j * columns_ + e];
      }
  }

 private:
  // Eight sums side by side: a single one could not be vectorised.
  static T Dot(const T* a, const T* b, int64_t count) {
    constexpr int64_t kLanes = 8;
    T lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
      for (int64_t l = 0; l < kLanes; ++l) lanes[l] += a[i + l] * b[i + l];
    for (; i < count; ++i) lanes[i % kLanes] += a[i] * b[i];
    T sum = 0;
    for (const T lane : lanes) sum += lane;
    return sum;
  }

  const Plan& plan_;
  const int64_t hidden_, sources_, columns_;
  const T* const w_ih_;
  const T* const embedding_;
};

}  // namespace sab::model::fast
