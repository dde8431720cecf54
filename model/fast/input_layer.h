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
        T value = 0;
        if (embedding_ == nullptr) value = w[s];
        for (int64_t e = 0; embedding_ != nullptr && e < columns_; ++e) value += embedding_[s * columns_ + e] * w[e];
        table[s * 4 * hidden_ + j] = value;
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
  const Plan& plan_;
  const int64_t hidden_, sources_, columns_;
  const T* const w_ih_;
  const T* const embedding_;
};

}  // namespace sab::model::fast
