#pragma once

#include "model/fast/live_set.h"
#include "model/random.h"

extern "C" double log(double);

// The memories of a block of rows: written every k_att steps, recalled at every step, and the way back.
namespace sab::model::fast::SAB_ISA {

constexpr double kEpsilon = 1e-7;  // of the normaliser Z

// What a step recalls in one row. In the sparse phase index holds one more: the best that is not recalled.
template <class T>
struct Recalled {
  const int32_t* index;
  const T* alpha;
  int64_t count;
  bool sparse;

  SAB_INLINE int64_t scored() const { return count + (sparse ? 1 : 0); }
};

template <class T>
class Memories {
 public:
  explicit Memories(const Block<T>& block)
      : b_(block), c_(block.plan.config), w_(block.work), live_(block), rows_(block.rows()), hidden_(block.hidden()) {}

  // Holds m_1 = 0 alone.
  void Reset();

  // How many memories' writes are in force, m_1 included; and to go on from there, with a workspace as it was then.
  int64_t written() const { return written_; }
  void Resume(int64_t written) { written_ = written; }

  // Adds s to h (R, H), which holds the state before recall, and leaves s in context (R, H). query is W_q h^ (R, H).
  void Recall(int64_t t, const T* query, T* h, T* context);

  // The same again, to the same bits. h may be null.
  void Replay(int64_t t, const T* query, T* h, T* context);

  // Appends `state` (R, H) as the memory of step t. Call it after step t's recall.
  void Write(int64_t t, const T* state);

  // Before the first step of the way back.
  void ClearGradients();

  // Given d_s (R, H), adds to the gradients of memories, keys and score weights; `query` (R, H) becomes the gradient of
  // W_q h^. Separable: adds to d_hat instead. Steps must come in descending order.
  void Backward(int64_t t, const T* d_s, const T* hat, T* query, T* d_hat);

  // Whether the memory written at step t has received any gradient; false where no memory was written.
  bool HasGradient(int64_t t) const { return t % c_.k_att == 0 && w_.touched[t / c_.k_att] != 0; }

  // Adds what the memory written at step t has received to d_state (R, H). Before Backward of step t.
  void AddStateGradient(int64_t t, T* d_state);

  // Gradients of the keys of memories from .. to (R, H each) of one chunk, once its steps have gone back.
  const T* KeyGradients(int64_t from, int64_t to);

 private:
  int64_t state() const { return rows_ * hidden_; }
  int64_t width() const { return c_.k_top + 1; }
  bool Guards(T normaliser) const { return c_.tie_guard > 0 && normaliser < static_cast<T>(c_.tie_guard); }
  int64_t RecallSlot(int64_t t) const { return b_.plan.backward ? t - 1 : (t - 1) % b_.plan.chunk; }
  int32_t* RecalledOf(int64_t t, int64_t row) const { return w_.recalled + (RecallSlot(t) * rows_ + row) * width(); }
  T* AlphaOf(int64_t t, int64_t row) const { return w_.alpha + (RecallSlot(t) * rows_ + row) * c_.k_top; }
  T* NormaliserOf(int64_t t, int64_t row) const { return w_.normaliser + RecallSlot(t) * rows_ + row; }
  const T* MemoryOf(int64_t i, int64_t row) const { return w_.memory + (i * rows_ + row) * hidden_; }
  T* InPlace(T* buffer, int64_t i, int64_t row) const {
    return buffer + (live_.PlaceOf(i, row) * rows_ + row) * hidden_;
  }
  const T* KeyOf(int64_t i, int64_t row) const { return InPlace(w_.key, i, row); }
  T* Scratch(int64_t piece) const { return w_.query + piece * b_.plan.row_scratch(); }
  T* KeyGradientOf(int64_t i) const;
  T Score(int64_t i, int64_t row, const T* query) const {
    return b_.plan.has_keys() ? ExactScore(KeyOf(i, row), query, b_.net.score, hidden_) : w_.salience[i * rows_ + row];
  }

  void WriteKeys(int64_t i);
  void StoreExpKey(int64_t i, int64_t place, int64_t row);
  void WriteSalience(int64_t i);
  void Lead(int64_t i, int64_t row, int64_t left);
  void Seek(int64_t written);
  void RestoreKeys(int64_t i, bool taken_back);

  void RankKeys(int64_t live, int64_t row, const T* query, Ranking<T>* ranking);
  int64_t FewKeys(int64_t live, int64_t row, const T* query, int64_t limit);
  void Weigh(const Ranking<T>& ranking, T* alpha, T* normaliser) const;
  T QueryShift(const T* h) const;
  void DrawIndex(int64_t t, int64_t row, int32_t* index) const;
  void ChooseDense(int64_t t, int64_t row, int32_t* index) const;
  void Softmax(T* alpha, int64_t count) const;
  void WeighDense(int64_t t, int64_t row, const T* query, const T* h);
  void WeighSparse(int64_t t, int64_t row, const T* query);
  void MeasureAll(int64_t t, int64_t row, const T* query, const T* h);
  Recalled<T> WeighAll(int64_t t, int64_t row, const T* query, bool scored);
  Recalled<T> View(int64_t t, int64_t row, const T* query);
  void AddContext(const Recalled<T>& recalled, int64_t row, T* h, T* context) const;

  void Touch(int64_t i);
  void ScoreGradients(int64_t t, int64_t row, const Recalled<T>& recalled, const T* d_s, T* d_score) const;
  void BackwardKeys(int64_t row, const Recalled<T>& recalled, const T* d_score, T* query);
  void BackwardSaliences(int64_t row, const Recalled<T>& recalled, const T* d_score, const T* hat, T* d_hat);
  void AddKeyGradient(int64_t i, bool through_score, T* d_state);
  void AddSalienceGradient(int64_t i, bool through_score, T* d_state);

  const Block<T>& b_;
  const ModelConfig& c_;
  const Workspace<T>& w_;
  LiveSet<T> live_;
  const int64_t rows_;
  const int64_t hidden_;
  int64_t written_ = 1;  // memories whose writes are in force, m_1 included
};

template <class T>
void Memories<T>::Reset() {
  written_ = 1;
  live_.Reset();
  Zero(w_.memory, state());
  if (c_.recall == Recall::kAll) {
    for (int64_t i = 0; i < b_.plan.live_limit(); ++i) w_.candidates[i] = static_cast<int32_t>(i);
  }
  if (!b_.plan.has_keys()) {
    Zero(w_.salience, rows_);
    for (int64_t r = 0; r < rows_; ++r) {
      w_.leaders[r * width()] = 0;
      w_.leader_index[r * width()] = 0;
    }
    return;
  }
  Zero(w_.key, state());
  if (w_.exp_key == nullptr) return;
  Zero(w_.exp_key, live_.places() * state());
  Zero(w_.key_limit, rows_);
  for (int64_t r = 0; r < rows_; ++r) StoreExpKey(0, 0, r);
}

template <class T>
void Memories<T>::StoreExpKey(int64_t i, int64_t place, int64_t row) {
  const T* key = KeyOf(i, row);
  T* out = w_.exp_key + row * live_.places() * hidden_ + (place / 16) * hidden_ * 16 + place % 16;
  Vec<T> limit = Fill<T>(w_.key_limit[row]);
  T values[kWidth<T>];
  for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
    const Vec<T> k = Load(key + j);
    limit = Max<T>(limit, Abs<T>(k));
    Store(values, Exp<T>(k + k));
    for (int v = 0; v < kWidth<T>; ++v) out[(j + v) * 16] = values[v];
  }
  w_.key_limit[row] = Largest<T>(limit);
}

template <class T>
void Memories<T>::Write(int64_t t, const T* from) {
  const int64_t i = t / c_.k_att;
  T* memory = w_.memory + i * state();
  if (memory != from) Copy(from, memory, state());
  if (!b_.plan.has_keys()) WriteSalience(i);
  for (int64_t r = 0; r < rows_; ++r) {
    const int64_t left = live_.Write(i, r);
    if (!b_.plan.has_keys() && left != i) Lead(i, r, left);
  }
  if (b_.plan.has_keys()) WriteKeys(i);
  written_ = i + 1;
}

template <class T>
void Memories<T>::WriteKeys(int64_t i) {
  const bool bounded = live_.bounded();
  T* const keys = bounded ? w_.d_hat : w_.key + i * state();  // forward d_hat is free
  MultiplyPacked(w_.memory + i * state(), hidden_, rows_, b_.Square(b_.net.w_m), keys, false);
  for (int64_t r = 0; r < rows_; ++r) {
    const int64_t place = live_.PlaceOf(i, r);
    if (place < 0) continue;
    if (bounded) Copy(keys + r * hidden_, InPlace(w_.key, i, r), hidden_);
    if (w_.exp_key != nullptr) StoreExpKey(i, place, r);
  }
}

template <class T>
void Memories<T>::WriteSalience(int64_t i) {
  for (int64_t r = 0; r < rows_; ++r) {
    Vec<T> sum{};
    for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
      sum += Load(b_.net.score + j) * Tanh<T>(Load(MemoryOf(i, r) + j));
    }
    w_.salience[i * rows_ + r] = Sum<T>(sum);
  }
}

// Keeps the best k_top + 1 saliences of a row, of which `left` (-1: none) goes and i comes.
template <class T>
void Memories<T>::Lead(int64_t i, int64_t row, int64_t left) {
  const auto offer = [&](Ranking<T>* leaders, int64_t memory) {
    const T salience = w_.salience[memory * rows_ + row];
    leaders->Offer(salience == salience ? salience : static_cast<T>(__builtin_inf()), static_cast<int32_t>(memory));
  };
  const int64_t live = b_.plan.LiveAt(i * c_.k_att);  // before the write
  Ranking<T> leaders{w_.leaders + row * width(), w_.leader_index + row * width(), width(), Smaller(live, width())};
  bool led = false;
  for (int64_t k = 0; left >= 0 && k < leaders.count; ++k) led |= leaders.index[k] == left;
  if (!led) {
    offer(&leaders, i);
    return;
  }
  leaders.count = 0;
  for (int64_t n = 0; n < live; ++n) offer(&leaders, live_.Nth(n, row));
}

// Going backward: the keys of what is live where the write of memory i is taken back, or is made again.
template <class T>
void Memories<T>::RestoreKeys(int64_t i, bool taken_back) {
  T* const memories = w_.key_scratch;
  T* const keys = memories + state();
  Zero(memories, state());
  const auto memory = [&](int64_t row) {
    const int64_t evicted = w_.evicted[i * rows_ + row];
    return live_.PlaceOf(i, row) < 0 ? -1 : taken_back ? evicted : i;
  };
  bool any = false;
  for (int64_t r = 0; r < rows_; ++r) {
    if (memory(r) < 0) continue;
    any = true;
    Copy(MemoryOf(memory(r), r), memories + r * hidden_, hidden_);
  }
  if (!any) return;
  MultiplyPacked(memories, hidden_, rows_, b_.Square(b_.net.w_m), keys, false);
  for (int64_t r = 0; r < rows_; ++r) {
    if (memory(r) >= 0) Copy(keys + r * hidden_, InPlace(w_.key, memory(r), r), hidden_);
  }
}

// Going backward: makes live what was live when `written` memories were.
template <class T>
void Memories<T>::Seek(int64_t written) {
  if (!live_.bounded()) return;
  for (; written_ > written; --written_) {
    for (int64_t r = 0; r < rows_; ++r) live_.TakeBack(written_ - 1, r);
    if (b_.plan.has_keys()) RestoreKeys(written_ - 1, true);
  }
  for (; written_ < written; ++written_) {
    for (int64_t r = 0; r < rows_; ++r) live_.Again(written_, r);
    if (b_.plan.has_keys()) RestoreKeys(written_, false);
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
  const T* exp_keys = w_.exp_key + row * live_.places() * hidden_;
  FactoredScores(exp_keys, exp_query, b_.net.score, hidden_, live, w_.scores);
  return Candidates(w_.scores, live, limit, b_.net.score_error, Scratch(1), w_.candidates);
}

template <class T>
void Memories<T>::RankKeys(int64_t live, int64_t row, const T* query, Ranking<T>* ranking) {
  const int64_t count = FewKeys(live, row, query, ranking->limit);
  for (int64_t n = 0; n < count; ++n) {
    const int64_t i = live_.MemoryIn(w_.candidates[n], row);
    ranking->Offer(Score(i, row, query), static_cast<int32_t>(i));
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

// The query's part of a separable score, from the state before recall (H).
template <class T>
T Memories<T>::QueryShift(const T* h) const {
  T shift = 0;
  for (int64_t j = 0; j < hidden_; j += kWidth<T>) shift += Sum<T>(Load(b_.net.query_score + j) * Tanh<T>(Load(h + j)));
  return shift;
}

// k_top distinct of the live memories, ascending: Floyd's sampling, drawn as the reference draws.
template <class T>
void Memories<T>::DrawIndex(int64_t t, int64_t row, int32_t* index) const {
  Random random(c_.seed, b_.in.streams[row], static_cast<uint32_t>(t));
  int64_t held = 0;
  for (int64_t last = b_.plan.LiveAt(t) - c_.k_top; held < c_.k_top; ++last) {
    auto drawn = static_cast<int32_t>(random.Below(static_cast<uint64_t>(last) + 1));
    for (int64_t k = 0; k < held; ++k) {
      if (index[k] == drawn) drawn = static_cast<int32_t>(last);
    }
    int64_t place = held++;
    for (; place > 0 && index[place - 1] > drawn; --place) index[place] = index[place - 1];
    index[place] = drawn;
  }
  for (int64_t k = 0; k < c_.k_top; ++k) index[k] = static_cast<int32_t>(live_.Nth(index[k], row));
}

// Everything that is live, k_top of it at random, or the last k_top.
template <class T>
void Memories<T>::ChooseDense(int64_t t, int64_t row, int32_t* index) const {
  const int64_t live = b_.plan.LiveAt(t), count = b_.plan.RecalledAt(t);
  if (live > count && c_.recall == Recall::kRandom) {
    DrawIndex(t, row, index);
    return;
  }
  for (int64_t k = 0; k < count; ++k) index[k] = static_cast<int32_t>(live_.Nth(live - count + k, row));
}

template <class T>
void Memories<T>::WeighDense(int64_t t, int64_t row, const T* query, const T* h) {
  const int64_t count = b_.plan.RecalledAt(t);
  T* const alpha = AlphaOf(t, row);
  int32_t* const index = RecalledOf(t, row);
  ChooseDense(t, row, index);
  for (int64_t k = 0; k < count; ++k) alpha[k] = Score(index[k], row, query);
  if (c_.dense == Dense::kSoftmax) {
    Softmax(alpha, count);
  } else if (b_.plan.is_separable()) {
    const T shift = QueryShift(h);
    for (int64_t k = 0; k < count; ++k) alpha[k] += shift;
  }
}

template <class T>
void Memories<T>::WeighSparse(int64_t t, int64_t row, const T* query) {
  int32_t* const index = RecalledOf(t, row);
  if (b_.plan.has_keys()) {
    Ranking<T> ranking{Scratch(2), index, width()};
    RankKeys(b_.plan.LiveAt(t), row, query, &ranking);
    Weigh(ranking, AlphaOf(t, row), NormaliserOf(t, row));
  } else {
    const Ranking<T> ranking{w_.leaders + row * width(), w_.leader_index + row * width(), width(), width()};
    memcpy(index, ranking.index, static_cast<size_t>(width()) * sizeof(int32_t));
    Weigh(ranking, AlphaOf(t, row), NormaliserOf(t, row));
  }
  if (b_.gradients != nullptr && !b_.Ends(row, t)) b_.sums->guarded_count += Guards(*NormaliserOf(t, row));
}

// Leaves the scores in work.scores where the weights are softmax. recall: all keeps one number a step and computes the
// weights again from the scores a: softmax exp(a - log sum exp a), raw a + the query's part.
template <class T>
void Memories<T>::MeasureAll(int64_t t, int64_t row, const T* query, const T* h) {
  T* const kept = NormaliserOf(t, row);
  if (c_.dense == Dense::kRaw) {
    *kept = b_.plan.is_separable() ? QueryShift(h) : static_cast<T>(0);
    return;
  }
  const int64_t live = b_.plan.LiveAt(t);
  T largest = static_cast<T>(-__builtin_inf());
  for (int64_t n = 0; n < live; ++n) {
    w_.scores[n] = Score(live_.Nth(n, row), row, query);
    largest = w_.scores[n] > largest ? w_.scores[n] : largest;
  }
  PadSums(w_.scores, live);
  Vec<T> sums{};
  for (int64_t n = 0; n < live / kWidth<T> * kWidth<T>; n += kWidth<T>) sums += Exp<T>(Load(w_.scores + n) - largest);
  double sum = static_cast<double>(Sum<T>(sums));
  for (int64_t n = live / kWidth<T> * kWidth<T>; n < live; ++n) {
    sum += static_cast<double>(Exp<T>(Fill<T>(w_.scores[n] - largest))[0]);
  }
  *kept = static_cast<T>(static_cast<double>(largest) + log(sum));
}

template <class T>
Recalled<T> Memories<T>::WeighAll(int64_t t, int64_t row, const T* query, bool scored) {
  const int64_t live = b_.plan.LiveAt(t);
  const T kept = *NormaliserOf(t, row);
  T* const alpha = w_.scores;
  for (int64_t n = 0; !scored && n < live; ++n) alpha[n] = Score(live_.Nth(n, row), row, query);
  PadSums(alpha, live);
  for (int64_t n = 0; n < live; n += kWidth<T>) {
    const Vec<T> a = Load(alpha + n);
    Store(alpha + n, c_.dense == Dense::kSoftmax ? Exp<T>(a - kept) : a + kept);
  }
  const int32_t* const index = live_.bounded() ? w_.live_order + row * live_.places() : w_.candidates;
  return {index, alpha, live, false};
}

// What was recalled, after the step's recall. For recall: all it lies in scratch, and the places must be as they were.
template <class T>
Recalled<T> Memories<T>::View(int64_t t, int64_t row, const T* query) {
  if (c_.recall == Recall::kAll) return WeighAll(t, row, query, false);
  return {RecalledOf(t, row), AlphaOf(t, row), b_.plan.RecalledAt(t), b_.plan.IsSparse(t)};
}

template <class T>
void Memories<T>::AddContext(const Recalled<T>& recalled, int64_t row, T* h, T* context) const {
  T* s = context + row * hidden_;
  Zero(s, hidden_);
  for (int64_t k = 0; k < recalled.count; ++k) {
    AddScaled(recalled.alpha[k], MemoryOf(recalled.index[k], row), s, hidden_);
  }
  if (h != nullptr) Add(s, h + row * hidden_, hidden_);
}

template <class T>
void Memories<T>::Recall(int64_t t, const T* query, T* h, T* context) {
  const bool credits = live_.bounded() && c_.memory_policy == MemoryPolicy::kSalient;
  for (int64_t r = 0; r < rows_; ++r) {
    const T* const q = b_.plan.has_keys() ? query + r * hidden_ : nullptr;
    if (c_.recall == Recall::kAll) {
      MeasureAll(t, r, q, h + r * hidden_);
    } else if (b_.plan.IsSparse(t)) {
      WeighSparse(t, r, q);
    } else {
      WeighDense(t, r, q, h + r * hidden_);
    }
    const bool scored = c_.recall == Recall::kAll && c_.dense == Dense::kSoftmax;
    const Recalled<T> recalled = scored ? WeighAll(t, r, q, true) : View(t, r, q);
    for (int64_t k = 0; credits && k < recalled.count; ++k) live_.Credit(recalled.index[k], r, recalled.alpha[k]);
    AddContext(recalled, r, h, context);
  }
}

template <class T>
void Memories<T>::Replay(int64_t t, const T* query, T* h, T* context) {
  if (c_.recall == Recall::kAll) Seek(b_.plan.MemoriesAt(t));
  for (int64_t r = 0; r < rows_; ++r) {
    AddContext(View(t, r, b_.plan.has_keys() ? query + r * hidden_ : nullptr), r, h, context);
  }
}

template <class T>
void Memories<T>::ClearGradients() {
  Zero(w_.touched, b_.plan.memories);
  Zero(w_.d_memory, b_.plan.places() * state());
  if (live_.bounded() && b_.plan.has_keys()) Zero(w_.d_key, live_.places() * state());
}

// Gradients beside the memory's own begin at 0 when the first part arrives. (Its own are zeroed at the start: what a
// step takes of memory does not depend on what it recalls.)
template <class T>
void Memories<T>::Touch(int64_t i) {
  if (w_.touched[i] != 0) return;
  w_.touched[i] = 1;
  if (!b_.plan.has_keys()) Zero(w_.d_salience + i * rows_, rows_);
  if (b_.plan.has_keys() && !live_.bounded()) Zero(w_.d_key + i * state(), state());
}

// dL/da of the recalled memories, in the sparse phase of the (k_top+1)-th too, from d_s (H) of one row.
template <class T>
void Memories<T>::ScoreGradients(int64_t t, int64_t row, const Recalled<T>& recalled, const T* d_s, T* d_score) const {
  const int64_t count = recalled.count;
  const T* const alpha = recalled.alpha;
  T mean = 0;
  for (int64_t k = 0; k < count; ++k) {
    d_score[k] = Dot(d_s, MemoryOf(recalled.index[k], row), hidden_);
    mean += alpha[k] * d_score[k];
  }
  if (!recalled.sparse) {
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
void Memories<T>::BackwardKeys(int64_t row, const Recalled<T>& recalled, const T* d_score, T* query) {
  const Vec<T> one = Fill<T>(1);
  T* d_weight = b_.gradients->score;
  for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
    const Vec<T> q = Load(query + j), w = Load(b_.net.score + j);
    Vec<T> d_w{}, d_q{};
    for (int64_t k = 0; k < recalled.scored(); ++k) {
      if (d_score[k] == 0) continue;
      const int64_t i = recalled.index[k];
      const Vec<T> u = Tanh<T>(Load(KeyOf(i, row) + j) + q);
      const Vec<T> d = d_score[k] * w * (one - u * u);
      d_w += d_score[k] * u;
      d_q += d;
      T* d_key = InPlace(w_.d_key, i, row) + j;
      Store(d_key, Load(d_key) + d);
    }
    Store(d_weight + j, Load(d_weight + j) + d_w);
    Store(query + j, d_q);
  }
}

template <class T>
void Memories<T>::BackwardSaliences(int64_t row, const Recalled<T>& recalled, const T* d_score, const T* hat,
                                    T* d_hat) {
  for (int64_t k = 0; k < recalled.scored(); ++k) w_.d_salience[recalled.index[k] * rows_ + row] += d_score[k];
  if (recalled.sparse || c_.dense == Dense::kSoftmax) return;  // the query's part cancels
  T shift = 0;
  for (int64_t k = 0; k < recalled.count; ++k) shift += d_score[k];
  for (int64_t j = 0; j < hidden_; j += kWidth<T>) {
    const Vec<T> u = Tanh<T>(Load(hat + j)), w = Load(b_.net.query_score + j);
    T* d_weight = b_.gradients->query_score + j;
    Store(d_weight, Load(d_weight) + shift * u);
    if (c_.detach_scores) continue;
    Store(d_hat + j, Load(d_hat + j) + shift * w * (Fill<T>(1) - u * u));
  }
}

template <class T>
void Memories<T>::Backward(int64_t t, const T* d_s, const T* hat, T* query, T* d_hat) {
  if (b_.plan.has_keys() || c_.recall == Recall::kAll) Seek(b_.plan.MemoriesAt(t));
  T* const d_score = c_.recall == Recall::kAll ? w_.d_score : Scratch(3);
  for (int64_t r = 0; r < rows_; ++r) {
    const int64_t at = r * hidden_;
    const Recalled<T> recalled = View(t, r, b_.plan.has_keys() ? query + at : nullptr);
    ScoreGradients(t, r, recalled, d_s + at, d_score);
    for (int64_t k = 0; k < recalled.scored(); ++k) Touch(recalled.index[k]);
    for (int64_t k = 0; k < recalled.count; ++k) {
      AddScaled(recalled.alpha[k], d_s + at, InPlace(w_.d_memory, recalled.index[k], r), hidden_);
    }
    if (b_.plan.has_keys()) {
      BackwardKeys(r, recalled, d_score, query + at);
    } else {
      BackwardSaliences(r, recalled, d_score, hat + at, d_hat + at);
    }
  }
}

// Where the gradient of memory i's key (R, H) lies once the memory's step has gone back; bounded, in order within a
// chunk.
template <class T>
T* Memories<T>::KeyGradientOf(int64_t i) const {
  if (!live_.bounded()) return w_.d_key + i * state();
  const int64_t before = (i * c_.k_att - 1) / b_.plan.chunk * b_.plan.chunk;  // steps before its chunk
  return w_.chunk_d_key + (i - before / c_.k_att - 1) * state();
}

template <class T>
const T* Memories<T>::KeyGradients(int64_t from, int64_t to) {
  for (int64_t i = from; i <= to; ++i) {
    if (w_.touched[i] == 0) Zero(KeyGradientOf(i), state());
  }
  return KeyGradientOf(from);
}

template <class T>
void Memories<T>::AddKeyGradient(int64_t i, bool through_score, T* d_state) {
  T* const d_key = KeyGradientOf(i);
  for (int64_t r = 0; live_.bounded() && r < rows_; ++r) {
    T* const row = d_key + r * hidden_;
    Zero(row, hidden_);
    if (live_.PlaceOf(i, r) < 0) continue;
    Copy(InPlace(w_.d_key, i, r), row, hidden_);
    Zero(InPlace(w_.d_key, i, r), hidden_);
  }
  if (through_score) MultiplyPacked(d_key, hidden_, rows_, b_.Square(b_.net.w_m_back), d_state, true);
}

template <class T>
void Memories<T>::AddSalienceGradient(int64_t i, bool through_score, T* d_state) {
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

template <class T>
void Memories<T>::AddStateGradient(int64_t t, T* d_state) {
  const int64_t i = t / c_.k_att;
  if (w_.touched[i] == 0) return;
  for (int64_t r = 0; r < rows_; ++r) {
    if (live_.PlaceOf(i, r) < 0) continue;
    T* const d_memory = InPlace(w_.d_memory, i, r);
    if (c_.mental_updates) Add(d_memory, d_state + r * hidden_, hidden_);
    if (live_.bounded()) Zero(d_memory, hidden_);
  }
  const bool through_score = c_.mental_updates && !c_.detach_scores;
  if (b_.plan.has_keys()) {
    AddKeyGradient(i, through_score, d_state);
  } else {
    AddSalienceGradient(i, through_score, d_state);
  }
}

}  // namespace sab::model::fast::SAB_ISA
