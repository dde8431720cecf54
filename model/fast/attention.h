#pragma once

#include "model/fast/block.h"

// Full self-attention over the zero state and all earlier states: step t reads states 0 .. t-1 with the query W_q h_t.
// Nothing of it enters the recurrence, so it is computed when all states are known: row by row, sixteen queries at a
// time. Nothing of size T^2 is kept: going backward the weights are computed again.
namespace sab::model::fast::SAB_ISA {

template <class T>
class Attention {
 public:
  explicit Attention(const Block<T>& block)
      : b_(block), w_(block.work), rows_(block.rows()), hidden_(block.hidden()), steps_(block.plan.steps) {}

  // From work.states 1 .. T (it sets the zero state) to work.contexts.
  void Forward();

  // work.contexts holds the gradients of the contexts, work.d_states those of the states so far: adds to these and to
  // the gradients of the weights.
  void Backward();

 private:
  static constexpr int64_t kTile = 16;

  int64_t padded() const { return (steps_ + 15) / 16 * 16; }
  T* StateOf(int64_t i, int64_t row) const { return w_.states + (i * rows_ + row) * hidden_; }
  T* ContextOf(int64_t t, int64_t row) const { return w_.contexts + ((t - 1) * rows_ + row) * hidden_; }
  T* QueryOf(int64_t t) const { return w_.row_query + (t - 1) * hidden_; }
  // Columns that a tile whose last query is `last` works on: whole panels and whole groups, or all there are.
  int64_t TileColumns(int64_t last) const {
    constexpr int64_t unit = kPanel<T> % 16 == 0 ? kPanel<T> : kPanel<T> % 8 == 0 ? 2 * kPanel<T> : 4 * kPanel<T>;
    return Smaller(padded(), (last + unit - 1) / unit * unit);
  }

  void LoadRow(int64_t row);
  void LoadExpKeys();
  void Weigh(int64_t first, int64_t last);
  void Scores(int64_t t, T* scores);
  void Normalise(int64_t n, T* alpha) const;
  void BackwardTile(int64_t row, int64_t first, int64_t last);
  void ScoreGradients(int64_t n, const T* alpha, T* d) const;
  void FactoredBackward(int64_t first, int64_t last);
  void FactoredBackwardUnit(int64_t h, const T* d, int64_t columns, int64_t groups, T* d_query);
  void ExactBackward(int64_t first, int64_t last);
  T* KeyGradients();
  void StoreRow(int64_t row);

  const Block<T>& b_;
  const Workspace<T>& w_;
  const int64_t rows_;
  const int64_t hidden_;
  const int64_t steps_;
  bool factored_ = false;  // whether the present row's keys and queries allow the factored form
};

template <class T>
void Attention<T>::LoadExpKeys() {
  Vec<T> key{}, query{};
  for (int64_t i = 0; i < padded(); ++i)
    for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
      const Vec<T> k = Load(w_.row_key + i * hidden_ + j);
      key = Max<T>(key, Abs<T>(k));
      query = Max<T>(query, Abs<T>(Load(w_.row_query + i * hidden_ + j)));
      T e[kWidth<T>];
      Store(e, Exp<T>(k + k));
      for (int v = 0; v < kWidth<T>; ++v) w_.row_exp_key[(i / 16 * hidden_ + j + v) * 16 + i % 16] = e[v];
    }
  factored_ = Largest<T>(key) + Largest<T>(query) <= kFactoredLimit<T>;
}

// Memories, keys and queries of one row.
template <class T>
void Attention<T>::LoadRow(int64_t row) {
  const int64_t memories = padded();
  Zero(w_.row_memory, memories * hidden_);
  Zero(w_.row_query, memories * hidden_);
  for (int64_t i = 0; i < steps_; ++i) Copy(StateOf(i, row), w_.row_memory + i * hidden_, hidden_);
  MultiplyPacked(w_.row_memory, hidden_, memories, b_.Square(b_.net.w_m), w_.row_key, false);
  MultiplyPacked(StateOf(1, row), rows_ * hidden_, steps_, b_.Square(b_.net.w_q), w_.row_query, false);
  PackPanels(w_.row_memory, hidden_, 1, memories, hidden_, w_.row_memory_panels);
  if (b_.gradients != nullptr) PackPanels(w_.row_memory, 1, hidden_, hidden_, memories, w_.row_transposed_panels);
  LoadExpKeys();
}

template <class T>
void Attention<T>::Scores(int64_t t, T* scores) {
  const T* const query = QueryOf(t);
  if (!factored_) {
    for (int64_t i = 0; i < t; ++i) scores[i] = ExactScore(w_.row_key + i * hidden_, query, b_.net.score, hidden_);
    return;
  }
  T* const exp_query = w_.query;
  for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
    const Vec<T> q = Load(query + j);
    Store(exp_query + j, Exp<T>(q + q));
  }
  FactoredScores(w_.row_exp_key, exp_query, b_.net.score, hidden_, t, scores);
  for (int64_t i = 0; i < t; ++i) scores[i] = b_.net.score_weight_sum - 2 * scores[i];
}

template <class T>
void Attention<T>::Normalise(int64_t n, T* alpha) const {
  if (b_.plan.config.normaliser == Normaliser::kNone) return;
  T largest = alpha[0];
  for (int64_t i = 1; i < n; ++i) largest = alpha[i] > largest ? alpha[i] : largest;
  const int64_t whole = n / kWidth<T> * kWidth<T>;
  Vec<T> sums{};
  for (int64_t i = 0; i < whole; i += kWidth<T>) {
    const Vec<T> e = Exp<T>(Load(alpha + i) - largest);
    sums += e;
    Store(alpha + i, e);
  }
  T sum = Sum<T>(sums);
  for (int64_t i = whole; i < n; ++i) {
    alpha[i] = Exp<T>(Fill<T>(alpha[i] - largest))[0];
    sum += alpha[i];
  }
  const T factor = 1 / sum;
  for (int64_t i = 0; i < n; ++i) alpha[i] *= factor;
}

// tile_alpha for queries first .. last: rows of TileColumns(last), 0 for what a query does not read.
template <class T>
void Attention<T>::Weigh(int64_t first, int64_t last) {
  const int64_t columns = TileColumns(last);
  for (int64_t t = first; t <= last; ++t) {
    T* const alpha = w_.tile_alpha + (t - first) * columns;
    Scores(t, alpha);
    Normalise(t, alpha);
    Zero(alpha + t, columns - t);
  }
}

template <class T>
void Attention<T>::Forward() {
  Zero(w_.states, rows_ * hidden_);
  for (int64_t row = 0; row < rows_; ++row) {
    LoadRow(row);
    for (int64_t first = 1; first <= steps_; first += kTile) {
      const int64_t last = Smaller(first + kTile - 1, steps_);
      Weigh(first, last);
      const Panels<T> memories{w_.row_memory_panels, last, hidden_, padded()};
      MultiplyPacked(w_.tile_alpha, TileColumns(last), last - first + 1, memories, w_.tile_state, false);
      for (int64_t t = first; t <= last; ++t) Copy(w_.tile_state + (t - first) * hidden_, ContextOf(t, row), hidden_);
    }
  }
}

// d (n): dL/d alpha in, dL/d score out.
template <class T>
void Attention<T>::ScoreGradients(int64_t n, const T* alpha, T* d) const {
  if (b_.plan.config.normaliser == Normaliser::kNone) return;
  T mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += alpha[i] * d[i];
  for (int64_t i = 0; i < n; ++i) d[i] = alpha[i] * (d[i] - mean);
}

// With r = 1 / (1 + E F): tanh = 1 - 2r and 1 - tanh^2 = 4 (r - r^2). For four queries and hidden unit h, over all
// groups of memories; d (4, columns) are the scores' gradients. The factor 4 w is left to the end.
template <class T>
void Attention<T>::FactoredBackwardUnit(int64_t h, const T* d, int64_t columns, int64_t groups, T* d_query) {
  const Vec<T> one = Fill<T>(1);
  const T* const exp_query = w_.query + h;
  const int64_t stride = b_.plan.row_scratch();
  Vec<T> sum_q[4] = {}, sum_w{};
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t v = 0; v < 16; v += kWidth<T>) {
      const int64_t at = (g * hidden_ + h) * 16 + v;
      const Vec<T> e = Load(w_.row_exp_key + at);
      Vec<T> d_key = Load(w_.row_d_key + at);
#pragma GCC unroll 2
      for (int64_t q = 0; q < 4; q += 2) {
        const Vec<T> d0 = e * exp_query[q * stride] + one, d1 = e * exp_query[(q + 1) * stride] + one;
        const Vec<T> inverse = Reciprocal<T>(d0 * d1), r0 = inverse * d1, r1 = inverse * d0;
        const Vec<T> a0 = Load(d + q * columns + g * 16 + v), a1 = Load(d + (q + 1) * columns + g * 16 + v);
        const Vec<T> x0 = a0 * r0, x1 = a1 * r1;
        const Vec<T> y0 = x0 - x0 * r0, y1 = x1 - x1 * r1;
        sum_w += (a0 + a1) - 2 * (x0 + x1);
        sum_q[q] += y0;
        sum_q[q + 1] += y1;
        d_key += y0 + y1;
      }
      Store(w_.row_d_key + at, d_key);
    }
  b_.gradients->score[h] += Sum<T>(sum_w);
  for (int q = 0; q < 4; ++q) d_query[q] = Sum<T>(sum_q[q]);
}

// Queries become their gradients; row_d_key is added to.
template <class T>
void Attention<T>::FactoredBackward(int64_t first, int64_t last) {
  const int64_t columns = TileColumns(last), groups = (last + 15) / 16, stride = b_.plan.row_scratch();
  for (int64_t from = first; from <= last; from += 4) {
    for (int64_t q = 0; q < 4; ++q) {
      T* const exp_query = w_.query + q * stride;
      Zero(exp_query, hidden_);
      for (int64_t j = 0; from + q <= last && j < hidden_; j += kWidth<T>) {
        const Vec<T> x = Load(QueryOf(from + q) + j);
        Store(exp_query + j, Exp<T>(x + x));
      }
    }
    for (int64_t h = 0; h < hidden_; ++h) {
      T d_query[4];
      FactoredBackwardUnit(h, w_.tile_d + (from - first) * columns, columns, groups, d_query);
      for (int64_t q = 0; q < 4 && from + q <= last; ++q) QueryOf(from + q)[h] = 4 * b_.net.score[h] * d_query[q];
    }
  }
}

// The same without the factored form; here row_d_key is (P, H) and nothing is left to the end.
template <class T>
void Attention<T>::ExactBackward(int64_t first, int64_t last) {
  const int64_t columns = TileColumns(last);
  const Vec<T> one = Fill<T>(1);
  for (int64_t t = first; t <= last; ++t) {
    const T* const d = w_.tile_d + (t - first) * columns;
    for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
      const Vec<T> q = Load(QueryOf(t) + j), w = Load(b_.net.score + j);
      Vec<T> d_query{}, d_weight = Load(b_.gradients->score + j);
      for (int64_t i = 0; i < t; ++i) {
        const Vec<T> u = Tanh<T>(Load(w_.row_key + i * hidden_ + j) + q);
        const Vec<T> x = d[i] * w * (one - u * u);
        d_weight += d[i] * u;
        d_query += x;
        T* const d_key = w_.row_d_key + i * hidden_ + j;
        Store(d_key, Load(d_key) + x);
      }
      Store(b_.gradients->score + j, d_weight);
      Store(QueryOf(t) + j, d_query);
    }
  }
}

template <class T>
void Attention<T>::BackwardTile(int64_t row, int64_t first, int64_t last) {
  const int64_t columns = TileColumns(last), count = last - first + 1;
  Weigh(first, last);
  for (int64_t t = first; t <= last; ++t) Copy(ContextOf(t, row), w_.tile_state + (t - first) * hidden_, hidden_);
  const Panels<T> transposed{w_.row_transposed_panels, hidden_, columns};
  MultiplyPacked(w_.tile_state, hidden_, count, transposed, w_.tile_d, false);
  Zero(w_.tile_d + count * columns, (kTile - count) * columns);
  const OuterOperand<T> alpha{w_.tile_alpha, columns, last, w_.row_d_memory};
  AddOuterProducts(&alpha, 1, w_.tile_state, hidden_, count, hidden_, w_.outer);
  for (int64_t t = first; t <= last; ++t) {
    T* const d = w_.tile_d + (t - first) * columns;
    ScoreGradients(t, w_.tile_alpha + (t - first) * columns, d);
    Zero(d + t, columns - t);
  }
  if (factored_) {
    FactoredBackward(first, last);
  } else {
    ExactBackward(first, last);
  }
}

// d_key to (P, H), with the factor that was left out.
template <class T>
T* Attention<T>::KeyGradients() {
  if (!factored_) return w_.row_d_key;
  for (int64_t i = 0; i < padded(); ++i)
    for (int64_t j = 0; j < hidden_; ++j) {
      w_.row_key[i * hidden_ + j] = 4 * b_.net.score[j] * w_.row_d_key[(i / 16 * hidden_ + j) * 16 + i % 16];
    }
  return w_.row_key;
}

// From one row's keys, queries and memories to the weights and states.
template <class T>
void Attention<T>::StoreRow(int64_t row) {
  const Gradients<T>& g = *b_.gradients;
  T* const d_key = KeyGradients();
  MultiplyPacked(d_key, hidden_, steps_, b_.Square(b_.net.w_m_back), w_.row_d_memory, true);
  const OuterOperand<T> keys{d_key, hidden_, hidden_, g.w_m};
  AddOuterProducts(&keys, 1, w_.row_memory, hidden_, steps_, hidden_, w_.outer);
  const OuterOperand<T> queries{w_.row_query, hidden_, hidden_, g.w_q};
  AddOuterProducts(&queries, 1, StateOf(1, row), rows_ * hidden_, steps_, hidden_, w_.outer);
  for (int64_t i = 1; i < steps_; ++i)
    Add(w_.row_d_memory + i * hidden_, w_.d_states + (i * rows_ + row) * hidden_, hidden_);
  T* const d_state = w_.row_key;
  MultiplyPacked(w_.row_query, hidden_, steps_, b_.Square(b_.net.w_q_back), d_state, false);
  for (int64_t t = 1; t <= steps_; ++t) {
    Add(d_state + (t - 1) * hidden_, w_.d_states + (t * rows_ + row) * hidden_, hidden_);
  }
}

template <class T>
void Attention<T>::Backward() {
  for (int64_t row = 0; row < rows_; ++row) {
    LoadRow(row);
    Zero(w_.row_d_key, padded() * hidden_);
    Zero(w_.row_d_memory, padded() * hidden_);
    for (int64_t first = 1; first <= steps_; first += kTile)
      BackwardTile(row, first, Smaller(first + kTile - 1, steps_));
    StoreRow(row);
  }
}

}  // namespace sab::model::fast::SAB_ISA
