#pragma once

#include "model/fast/block.h"

// The memories of a block of rows: written every k_att steps, recalled at every step, and the way back.
namespace sab::model::fast::SAB_ISA {

constexpr double kEpsilon = 1e-7;  // of the normaliser Z

template <class T>
class Memories {
 public:
  explicit Memories(const Block<T>& block)
      : b_(block), c_(block.plan.config), w_(block.work), rows_(block.rows()), hidden_(block.hidden()) {}

  // Holds m_1 = 0 alone.
  void Reset();

  // Adds s to h (R, H), which holds the state before recall, and leaves s in context (R, H). query is W_q h^ (R, H).
  void Recall(int64_t t, const T* query, T* h, T* context);

  // The same with the weights that Recall kept. h may be null.
  void Replay(int64_t t, T* h, T* context) const;

  // Appends `state` (R, H) as the memory of step t. Call it after step t's recall.
  void Write(int64_t t, const T* state);

  // Before the first step of the way back.
  void ClearGradients();

  // Given d_s (R, H), adds to the gradients of memories, keys and score weights; `query` (R, H) becomes the gradient of
  // W_q h^. Separable: adds to d_hat instead.
  void Backward(int64_t t, const T* d_s, const T* hat, T* query, T* d_hat);

  // Whether the memory written at step t has received any gradient; false where no memory was written.
  bool HasGradient(int64_t t) const { return t % c_.k_att == 0 && w_.touched[t / c_.k_att] != 0; }

  // Adds what the memory written at step t has received to d_state (R, H).
  void AddStateGradient(int64_t t, T* d_state);

 private:
  int64_t width() const { return c_.k_top + 1; }
  bool Guards(T normaliser) const { return c_.tie_guard > 0 && normaliser < static_cast<T>(c_.tie_guard); }
  int64_t RecallSlot(int64_t t) const { return b_.plan.backward ? t - 1 : (t - 1) % b_.plan.chunk; }
  int32_t* RecalledOf(int64_t t, int64_t row) const { return w_.recalled + (RecallSlot(t) * rows_ + row) * width(); }
  T* AlphaOf(int64_t t, int64_t row) const { return w_.alpha + (RecallSlot(t) * rows_ + row) * c_.k_top; }
  T* NormaliserOf(int64_t t, int64_t row) const { return w_.normaliser + RecallSlot(t) * rows_ + row; }
  const T* MemoryOf(int64_t i, int64_t row) const { return w_.memory + (i * rows_ + row) * hidden_; }
  const T* KeyOf(int64_t i, int64_t row) const { return w_.key + (i * rows_ + row) * hidden_; }
  T* Scratch(int64_t piece) const { return w_.query + piece * b_.plan.row_scratch(); }
  int64_t places() const { return (b_.plan.live_limit() + 15) / 16 * 16; }

  void Rank(int64_t t, int64_t row, const T* query, Ranking<T>* ranking);
  void RankKeys(int64_t live, int64_t row, const T* query, Ranking<T>* ranking);
  int64_t FewKeys(int64_t live, int64_t row, const T* query, int64_t limit);
  void ScoreDense(int64_t t, int64_t row, const T* query, T* alpha, int32_t* index) const;
  void Softmax(T* alpha, int64_t count) const;
  void Weigh(const Ranking<T>& ranking, T* alpha, T* normaliser) const;
  void Credit(int64_t t, int64_t row);
  int64_t Vacate(int64_t i, int64_t row);
  void StoreKey(int64_t i, int64_t place, int64_t row);
  void ScoreGradients(int64_t t, int64_t row, const T* d_s, T* d_score) const;
  void BackwardKeys(int64_t t, int64_t row, const T* d_score, T* query);

  const Block<T>& b_;
  const ModelConfig& c_;
  const Workspace<T>& w_;
  const int64_t rows_;
  const int64_t hidden_;
};

template <class T>
void Memories<T>::Reset() {
  const int64_t state = rows_ * hidden_;
  Zero(w_.memory, state);
  if (!b_.plan.has_keys()) {
    Zero(w_.salience, rows_);
    for (int64_t r = 0; r < rows_; ++r) {
      w_.leaders[r * width()] = 0;
      w_.leader_index[r * width()] = 0;
    }
    return;
  }
  Zero(w_.key, state);
  Zero(w_.exp_key, places() * state);
  Zero(w_.key_limit, rows_);
  for (int64_t r = 0; r < rows_; ++r) StoreKey(0, 0, r);
}

template <class T>
void Memories<T>::StoreKey(int64_t i, int64_t place, int64_t row) {
  const T* key = KeyOf(i, row);
  T* out = w_.exp_key + row * places() * hidden_ + (place / 16) * hidden_ * 16 + place % 16;
  Vec<T> limit = Fill<T>(w_.key_limit[row]);
  T values[kWidth<T>];
  for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
    const Vec<T> k = Load(key + j);
    limit = Max<T>(limit, Abs<T>(k));
    Store(values, Exp<T>(k + k));
    for (int v = 0; v < kWidth<T>; ++v) out[(j + v) * 16] = values[v];
  }
  w_.key_limit[row] = Largest<T>(limit);
  if (!b_.plan.bounded()) return;
  w_.slot_memory[row * places() + place] = static_cast<int32_t>(i);
  w_.credit[row * places() + place] = 0;
}

// The place in which memory i goes, its number while there is room; -1: it is not kept.
template <class T>
int64_t Memories<T>::Vacate(int64_t i, int64_t row) {
  const int64_t capacity = c_.memory_capacity;
  if (!b_.plan.bounded() || i < capacity) return i;
  const int32_t* memory = w_.slot_memory + row * places();
  const double* credit = w_.credit + row * places();
  const bool salient = c_.memory_policy == MemoryPolicy::kSalient;
  const int64_t kept = Smaller(c_.memory_recent, capacity - 1);
  int64_t leaving = -1;
  for (int64_t p = 1; p < capacity; ++p) {
    if (salient && memory[p] > i - kept) continue;  // the `kept` last writes, this one included, stay
    const bool better = leaving < 0 || (salient && credit[p] < credit[leaving]) ||
                        ((!salient || credit[p] == credit[leaving]) && memory[p] < memory[leaving]);
    if (better) leaving = p;
  }
  if (salient && kept == 0 && leaving >= 0 && credit[leaving] > 0) return -1;
  return leaving;
}

template <class T>
void Memories<T>::Write(int64_t t, const T* state) {
  const int64_t i = t / c_.k_att;
  T* memory = w_.memory + i * rows_ * hidden_;
  if (memory != state) Copy(state, memory, rows_ * hidden_);
  if (b_.plan.has_keys()) {
    MultiplyPacked(memory, hidden_, rows_, b_.Square(b_.net.w_m), w_.key + i * rows_ * hidden_, false);
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t place = Vacate(i, r);
      if (place >= 0) StoreKey(i, place, r);
    }
    return;
  }
  for (int64_t r = 0; r < rows_; ++r) {
    Vec<T> sum{};
    for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
      sum += Load(b_.net.score + j) * Tanh<T>(Load(memory + r * hidden_ + j));
    }
    const T salience = Sum<T>(sum);
    w_.salience[i * rows_ + r] = salience;
    Ranking<T> leaders{w_.leaders + r * width(), w_.leader_index + r * width(), width(), Smaller(i, width())};
    leaders.Offer(salience == salience ? salience : static_cast<T>(__builtin_inf()), static_cast<int32_t>(i));
  }
}

// Narrows the choice among `live` places of a row to w_.candidates; returns how many.
template <class T>
int64_t Memories<T>::FewKeys(int64_t live, int64_t row, const T* query, int64_t limit) {
  T* exp_query = Scratch(0);
  Vec<T> largest{};
  for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
    const Vec<T> q = Load(query + j);
    largest = Max<T>(largest, Abs<T>(q));
    Store(exp_query + j, Exp<T>(q + q));
  }
  if (!(Largest<T>(largest) + w_.key_limit[row] <= kFactoredLimit<T>) || live < 2 * limit) {
    for (int64_t i = 0; i < live; ++i) w_.candidates[i] = static_cast<int32_t>(i);
    return live;
  }
  const T* exp_keys = w_.exp_key + row * places() * hidden_;
  FactoredScores(exp_keys, exp_query, b_.net.score, hidden_, live, w_.scores);
  return Candidates(w_.scores, live, limit, b_.net.score_error, Scratch(1), w_.candidates);
}

template <class T>
void Memories<T>::RankKeys(int64_t live, int64_t row, const T* query, Ranking<T>* ranking) {
  const int64_t count = FewKeys(live, row, query, ranking->limit);
  for (int64_t n = 0; n < count; ++n) {
    const int64_t place = w_.candidates[n];
    const int64_t i = b_.plan.bounded() ? w_.slot_memory[row * places() + place] : place;
    ranking->Offer(ExactScore(KeyOf(i, row), query, b_.net.score, hidden_), static_cast<int32_t>(i));
  }
}

template <class T>
void Memories<T>::Weigh(const Ranking<T>& ranking, T* alpha, T* normaliser) const {
  const T next = ranking.scores[c_.k_top];
  T total = 0;
  for (int64_t k = 0; k < c_.k_top; ++k) {
    alpha[k] = ranking.scores[k] - next;
    total += alpha[k];
  }
  *normaliser = total + static_cast<T>(kEpsilon);
  for (int64_t k = 0; k < c_.k_top; ++k) alpha[k] /= *normaliser;
}

template <class T>
void Memories<T>::Softmax(T* alpha, int64_t count) const {
  T largest = alpha[0], total = 0;
  for (int64_t k = 1; k < count; ++k) largest = alpha[k] > largest ? alpha[k] : largest;
  for (int64_t k = 0; k < count; ++k) {
    alpha[k] = Exp<T>(Fill<T>(alpha[k] - largest))[0];
    total += alpha[k];
  }
  for (int64_t k = 0; k < count; ++k) alpha[k] /= total;
}

// Everything that is live, or the last k_top.
template <class T>
void Memories<T>::ScoreDense(int64_t t, int64_t row, const T* query, T* alpha, int32_t* index) const {
  const int64_t live = b_.plan.LiveAt(t), written = b_.plan.MemoriesAt(t), count = b_.plan.RecalledAt(t);
  for (int64_t k = 0; k < count; ++k) {
    int64_t i = written - count + k;
    if (live == count) i = b_.plan.bounded() ? w_.slot_memory[row * places() + k] : k;
    index[k] = static_cast<int32_t>(i);
    alpha[k] =
        b_.plan.has_keys() ? ExactScore(KeyOf(i, row), query, b_.net.score, hidden_) : w_.salience[i * rows_ + row];
  }
  if (c_.dense == Dense::kSoftmax) {
    Softmax(alpha, count);
  } else if (b_.plan.is_separable()) {
    const T shift = query[0];
    for (int64_t k = 0; k < count; ++k) alpha[k] += shift;
  }
}

template <class T>
void Memories<T>::Credit(int64_t t, int64_t row) {
  const int64_t live = b_.plan.LiveAt(t), count = b_.plan.RecalledAt(t);
  const int32_t* index = RecalledOf(t, row);
  const T* alpha = AlphaOf(t, row);
  for (int64_t p = 0; p < live; ++p)
    for (int64_t k = 0; k < count; ++k)
      if (w_.slot_memory[row * places() + p] == index[k]) w_.credit[row * places() + p] += alpha[k];
}

template <class T>
void Memories<T>::Recall(int64_t t, const T* query, T* h, T* context) {
  const int64_t live = b_.plan.LiveAt(t);
  for (int64_t r = 0; r < rows_; ++r) {
    T* alpha = AlphaOf(t, r);
    int32_t* index = RecalledOf(t, r);
    if (!b_.plan.IsSparse(t)) {
      T shift = 0;
      const T* q = b_.plan.has_keys() ? query + r * hidden_ : &shift;
      if (b_.plan.is_separable()) {
        for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
          shift += Sum<T>(Load(b_.net.query_score + j) * Tanh<T>(Load(h + r * hidden_ + j)));
        }
      }
      ScoreDense(t, r, q, alpha, index);
    } else if (b_.plan.has_keys()) {
      Ranking<T> ranking{Scratch(2), index, width()};
      RankKeys(live, r, query + r * hidden_, &ranking);
      Weigh(ranking, alpha, NormaliserOf(t, r));
    } else {
      const Ranking<T> ranking{w_.leaders + r * width(), w_.leader_index + r * width(), width(), width()};
      memcpy(index, ranking.index, static_cast<size_t>(width()) * sizeof(int32_t));
      Weigh(ranking, alpha, NormaliserOf(t, r));
    }
    if (b_.plan.bounded() && c_.memory_policy == MemoryPolicy::kSalient) Credit(t, r);
    if (b_.gradients != nullptr && b_.plan.IsSparse(t) && !b_.Ends(r, t))
      b_.sums->guarded_count += Guards(*NormaliserOf(t, r));
  }
  Replay(t, h, context);
}

template <class T>
void Memories<T>::Replay(int64_t t, T* h, T* context) const {
  const int64_t count = b_.plan.RecalledAt(t);
  for (int64_t r = 0; r < rows_; ++r) {
    const T* alpha = AlphaOf(t, r);
    const int32_t* index = RecalledOf(t, r);
    T* s = context + r * hidden_;
    Zero(s, hidden_);
    for (int64_t k = 0; k < count; ++k) AddScaled(alpha[k], MemoryOf(index[k], r), s, hidden_);
    if (h != nullptr) Add(s, h + r * hidden_, hidden_);
  }
}

template <class T>
void Memories<T>::ClearGradients() {
  const int64_t count = b_.plan.memories * rows_;
  Zero(w_.d_memory, count * hidden_);
  Zero(w_.touched, b_.plan.memories);
  if (b_.plan.has_keys()) {
    Zero(w_.d_key, count * hidden_);
  } else {
    Zero(w_.d_salience, count);
  }
}

// dL/da of the recalled memories, in the sparse phase of the (k_top+1)-th too, from d_s (H) of one row.
template <class T>
void Memories<T>::ScoreGradients(int64_t t, int64_t row, const T* d_s, T* d_score) const {
  const int64_t count = b_.plan.RecalledAt(t);
  const bool sparse = b_.plan.IsSparse(t);
  const T* alpha = AlphaOf(t, row);
  const int32_t* index = RecalledOf(t, row);
  T mean = 0;
  for (int64_t k = 0; k < count; ++k) {
    d_score[k] = Dot(d_s, MemoryOf(index[k], row), hidden_);
    mean += alpha[k] * d_score[k];
  }
  if (!sparse) {
    if (c_.dense == Dense::kRaw) return;
    for (int64_t k = 0; k < count; ++k) d_score[k] = alpha[k] * (d_score[k] - mean);
    return;
  }
  const T z = *NormaliserOf(t, row);
  const bool guarded = Guards(z);
  T total = 0;
  for (int64_t k = 0; k < count; ++k) {
    d_score[k] = alpha[k] > 0 && !guarded ? (d_score[k] - mean) / z : static_cast<T>(0);
    total += d_score[k];
  }
  d_score[count] = -total;
}

// One row's query becomes its gradient.
template <class T>
void Memories<T>::BackwardKeys(int64_t t, int64_t row, const T* d_score, T* query) {
  const int64_t count = b_.plan.RecalledAt(t) + (b_.plan.IsSparse(t) ? 1 : 0);
  const int32_t* index = RecalledOf(t, row);
  const Vec<T> one = Fill<T>(1);
  T* d_weight = b_.gradients->score;
  for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
    const Vec<T> q = Load(query + j), w = Load(b_.net.score + j);
    Vec<T> d_w{}, d_q{};
    for (int64_t k = 0; k < count; ++k) {
      if (d_score[k] == 0) continue;
      const Vec<T> u = Tanh<T>(Load(KeyOf(index[k], row) + j) + q);
      const Vec<T> d = d_score[k] * w * (one - u * u);
      d_w += d_score[k] * u;
      d_q += d;
      T* d_key = w_.d_key + (index[k] * rows_ + row) * hidden_ + j;
      Store(d_key, Load(d_key) + d);
    }
    Store(d_weight + j, Load(d_weight + j) + d_w);
    Store(query + j, d_q);
  }
}

template <class T>
void Memories<T>::Backward(int64_t t, const T* d_s, const T* hat, T* query, T* d_hat) {
  const int64_t count = b_.plan.RecalledAt(t);
  const bool sparse = b_.plan.IsSparse(t);
  T* d_score = Scratch(3);
  for (int64_t r = 0; r < rows_; ++r) {
    const T* ds = d_s + r * hidden_;
    const int32_t* index = RecalledOf(t, r);
    const T* alpha = AlphaOf(t, r);
    ScoreGradients(t, r, ds, d_score);
    for (int64_t k = 0; k < count + (sparse ? 1 : 0); ++k) w_.touched[index[k]] = 1;
    for (int64_t k = 0; k < count; ++k)
      AddScaled(alpha[k], ds, w_.d_memory + (index[k] * rows_ + r) * hidden_, hidden_);
    if (b_.plan.has_keys()) {
      BackwardKeys(t, r, d_score, query + r * hidden_);
      continue;
    }
    for (int64_t k = 0; k < count + (sparse ? 1 : 0); ++k) w_.d_salience[index[k] * rows_ + r] += d_score[k];
    if (sparse || c_.dense == Dense::kSoftmax) continue;  // the query's part cancels
    T shift = 0;
    for (int64_t k = 0; k < count; ++k) shift += d_score[k];
    for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
      const Vec<T> u = Tanh<T>(Load(hat + r * hidden_ + j)), w = Load(b_.net.query_score + j);
      T* d_weight = b_.gradients->query_score + j;
      Store(d_weight, Load(d_weight) + shift * u);
      if (c_.detach_scores) continue;
      T* d = d_hat + r * hidden_ + j;
      Store(d, Load(d) + shift * w * (Fill<T>(1) - u * u));
    }
  }
}

template <class T>
void Memories<T>::AddStateGradient(int64_t t, T* d_state) {
  const int64_t i = t / c_.k_att, state = rows_ * hidden_;
  const bool through_score = c_.mental_updates && !c_.detach_scores;
  if (c_.mental_updates) Add(w_.d_memory + i * state, d_state, state);
  if (b_.plan.has_keys()) {
    if (!through_score) return;
    MultiplyPacked(w_.d_key + i * state, hidden_, rows_, b_.Square(b_.net.w_m_back), d_state, true);
    return;
  }
  for (int64_t r = 0; r < rows_; ++r) {
    const Vec<T> d_salience = Fill<T>(w_.d_salience[i * rows_ + r]);
    for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
      const Vec<T> u = Tanh<T>(Load(MemoryOf(i, r) + j)), w = Load(b_.net.score + j);
      T* d_weight = b_.gradients->score + j;
      Store(d_weight, Load(d_weight) + d_salience * u);
      if (!through_score) continue;
      T* d = d_state + r * hidden_ + j;
      Store(d, Load(d) + d_salience * w * (Fill<T>(1) - u * u));
    }
  }
}

}  // namespace sab::model::fast::SAB_ISA
