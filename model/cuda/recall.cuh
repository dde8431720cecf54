#pragma once

#include "model/cuda/arguments.h"
#include "model/cuda/ranking.cuh"

// The memories of one row: recalled at every step, written every k_att steps. One block has a row to itself, for the
// whole sequence.
namespace sab::model::cuda {

constexpr double kEpsilon = 1e-7;  // of the normaliser Z

// What a step reads.
struct Reading {
  int64_t written = 1;  // memories so far
  int64_t live = 1;     // of those, how many a bounded memory still holds
  int count = 1;        // weights
  bool sparse = false;  // the best k_top by their gap to the next; otherwise `count` memories weighed by `dense`
};

template <class T>
class Memories {
 public:
  SAB_DEVICE explicit Memories(const SweepArguments<T>& arguments)
      : a(arguments),
        query_(reinterpret_cast<T*>(SharedMemory() + a.layout.vectors)),
        score_weight_(query_ + a.hidden),
        exp_query_(score_weight_ + a.hidden),
        list_(reinterpret_cast<T*>(SharedMemory() + a.layout.list)),
        few_score_(reinterpret_cast<T*>(SharedMemory() + a.layout.few)),
        few_alpha_(few_score_ + kLanes),
        list_index_(reinterpret_cast<int32_t*>(SharedMemory() + a.layout.list_index)),
        few_index_(reinterpret_cast<int32_t*>(SharedMemory() + a.layout.few_index)) {
    for (int h = ThreadInBlock(); h < a.hidden; h += ThreadsOfBlock()) score_weight_[h] = a.score[h];
    SyncBlock();
    T norm = 0;
    for (int h = Lane(); h < a.hidden; h += kLanes) norm += score_weight_[h] < 0 ? -score_weight_[h] : score_weight_[h];
    // How far rough and exact scores may order two memories differently: units in the last place of each term, and of
    // sums of H / 32 terms.
    tolerance_ = WarpSum(norm) * static_cast<T>(32 + a.hidden / 16) * static_cast<T>(sizeof(T) == 4 ? 1.2e-7 : 2.3e-16);
  }

  SAB_DEVICE Reading ReadingAt(int64_t t) const {
    Reading r;
    r.written = 1 + (t - 1) / a.k_att;
    r.live = a.capacity > 0 && r.written > a.capacity ? a.capacity : r.written;
    r.count = static_cast<int>(r.live < a.k_top ? r.live : a.k_top);
    r.sparse = a.top && r.live > a.k_top;
    return r;
  }

  // From h^ and the query of step t to s_t and h_t; `slot` and `recall_slot` are the step's. Writes the memory of step
  // t as well. Keys of memories written at steps before t must be there.
  SAB_DEVICE void Recall(int64_t t, int row, int64_t slot, int64_t recall_slot) {
    const Reading reading = ReadingAt(t);
    const int64_t at = recall_slot * a.rows + row;
    if (a.replay) {
      Reload(reading, at);
    } else {
      if (a.mlp) LoadQuery(slot, row);
      if (a.mlp) Score(reading, row);
      SyncBlock();
      if (a.mlp && reading.sparse) RankLists();
      if (Warp() == 0) Weigh(reading, slot, row, at);
    }
    SyncBlock();
    Mix(t, reading, slot, row);
    SyncBlock();
    if (t % a.k_att == 0 && !a.replay && Warp() == 0) Keep(t / a.k_att, row);
  }

  // Holds m_1 = 0 alone. By one warp.
  SAB_DEVICE void Reset(int row) const {
    if (!a.mlp) {
      a.leader_score[row * kLanes + Lane()] = Lane() == 0 ? T{0} : -Infinity<T>();
      a.leader_index[row * kLanes + Lane()] = Lane() == 0 ? 0 : kNoIndex;
      if (Lane() == 0) a.salience[row] = 0;
    }
    if (a.salient && Lane() == 0) {
      a.place_memory[int64_t{row} * a.capacity] = 0;
      a.credit[int64_t{row} * a.capacity] = 0;
    }
  }

 private:
  static constexpr int kAtOnce = 4;  // memories a warp scores together: so many loads are under way

  SAB_DEVICE int64_t State(int64_t i, int row) const { return (i * a.rows + row) * a.hidden; }

  // The memory at place p of the live ones, oldest first except in a salient memory.
  SAB_DEVICE int32_t MemoryAt(const Reading& r, int64_t p, int row) const {
    if (r.live == r.written) return static_cast<int32_t>(p);
    if (a.salient) return a.place_memory[int64_t{row} * a.capacity + p];
    return static_cast<int32_t>(p == 0 ? 0 : r.written - r.live + p);
  }
  // The k-th of the memories that are weighed when the best are not looked for.
  SAB_DEVICE int32_t DenseMemoryAt(const Reading& r, int k, int row) const {
    return r.live == r.count ? MemoryAt(r, k, row) : static_cast<int32_t>(r.written - r.count + k);
  }

  SAB_DEVICE void LoadQuery(int64_t slot, int row) {
    for (int h = ThreadInBlock(); h < a.hidden; h += ThreadsOfBlock()) {
      query_[h] = LoadRemote(a.query + State(slot, row) + h);
      exp_query_[h] = Exp(2 * query_[h]);
    }
    SyncBlock();
  }

  SAB_DEVICE void Score(const Reading& r, int row) {
    if (!r.sparse) {
      ScoreFew(r, row);
    } else if (r.live < kNarrowFrom * (a.k_top + 1)) {
      ScoreAll(r, row);
    } else {
      ScoreCandidates(r, row, Narrow(r, row));
    }
  }

  // w . tanh(K_i + q) of `Count` memories, the same on every lane.
  template <int Count>
  SAB_DEVICE void Scores(const int32_t* index, int row, T* score) const {
    const T* key[Count];
    for (int m = 0; m < Count; ++m) {
      key[m] = a.key + State(index[m], row);
      score[m] = 0;
    }
#pragma unroll 2
    for (int h = Lane(); h < a.hidden; h += kLanes) {
      const T q = query_[h], w = score_weight_[h];
      for (int m = 0; m < Count; ++m) score[m] += w * Tanh(LoadRemote(key[m] + h) + q);
    }
    for (int m = 0; m < Count; ++m) score[m] = WarpSum(score[m]);
  }

  // Each warp scores its share of the memories and leaves the best in list_.
  SAB_DEVICE void ScoreAll(const Reading& r, int row) {
    const int width = a.k_top + 1;
    Ranking<T> ranking(width);
    for (int64_t first = Warp() * kAtOnce; first < r.live; first += Warps() * kAtOnce) {
      int32_t index[kAtOnce];
      T score[kAtOnce];
      for (int m = 0; m < kAtOnce; ++m) index[m] = MemoryAt(r, first + m < r.live ? first + m : r.live - 1, row);
      Scores<kAtOnce>(index, row, score);
      for (int m = 0; m < kAtOnce; ++m)
        if (first + m < r.live) ranking.Offer(score[m], index[m]);
    }
    StoreList(ranking);
  }

  // Rough scores of all memories, up to a constant: tanh(k + q) = 1 - 2 / (1 + e^2k e^2q), where a term costs a
  // reciprocal instead of a tanh. Their error is a unit of 1 however small tanh is, so they only narrow the choice:
  // returns what a rough score must reach to be among the best. Where e^2k e^2q is not a number the rough score is none
  // either, and the memory stays in the choice.
  SAB_DEVICE T Narrow(const Reading& r, int row) {
    Ranking<T> ranking(a.k_top + 1);
    for (int64_t first = Warp() * kAtOnce; first < r.live; first += Warps() * kAtOnce) {
      T score[kAtOnce];
      RoughScores(r, first, row, score);
      for (int m = 0; m < kAtOnce; ++m) {
        if (first + m >= r.live) break;
        if (score[m] == score[m]) ranking.Offer(score[m], static_cast<int32_t>(first + m));
        if (Lane() == 0) a.rough[row * a.memories + first + m] = score[m];
      }
    }
    StoreList(ranking);
    if (ThreadInBlock() == 0) few_score_[a.k_top] = -Infinity<T>();
    SyncBlock();
    RankLists();
    return few_score_[a.k_top] - tolerance_;
  }

  SAB_DEVICE void RoughScores(const Reading& r, int64_t first, int row, T* score) const {
    const T* key[kAtOnce];
    for (int m = 0; m < kAtOnce; ++m) {
      key[m] = a.exp_key + State(MemoryAt(r, first + m < r.live ? first + m : r.live - 1, row), row);
      score[m] = 0;
    }
#pragma unroll 2
    for (int h = Lane(); h < a.hidden; h += kLanes) {
      const T q = exp_query_[h], w = score_weight_[h];
      for (int m = 0; m < kAtOnce; ++m) score[m] -= w * RoughReciprocal(1 + LoadRemote(key[m] + h) * q);
    }
    for (int m = 0; m < kAtOnce; ++m) score[m] = WarpSum(score[m]);
  }

  // Each warp scores the candidates among its places, which lie apart: memories that are alike are often neighbours.
  SAB_DEVICE void ScoreCandidates(const Reading& r, int row, T least) {
    Ranking<T> ranking(a.k_top + 1);
    for (int64_t base = Warp(); base < r.live; base += int64_t{kLanes} * Warps()) {
      const int64_t place = base + int64_t{Lane()} * Warps();
      uint32_t candidates = Ballot(place < r.live && !(a.rough[row * a.memories + place] < least));
      for (; candidates != 0; candidates &= candidates - 1) {
        const int32_t index = MemoryAt(r, base + int64_t{LowestBit(candidates)} * Warps(), row);
        T score;
        Scores<1>(&index, row, &score);
        ranking.Offer(score, index);
      }
    }
    StoreList(ranking);
  }

  SAB_DEVICE void StoreList(const Ranking<T>& ranking) {
    list_[Warp() * kLanes + Lane()] = ranking.score();
    list_index_[Warp() * kLanes + Lane()] = ranking.index();
  }

  SAB_DEVICE void ScoreFew(const Reading& r, int row) {
    for (int k = Warp(); k < r.count; k += Warps()) {
      const int32_t index = DenseMemoryAt(r, k, row);
      T score;
      Scores<1>(&index, row, &score);
      if (Lane() == 0) few_score_[k] = score == score ? score : Infinity<T>();
    }
  }

  // By warp 0: the weights of the recalled memories, to few_* and to global memory.
  SAB_DEVICE void Weigh(const Reading& r, int64_t slot, int row, int64_t at) {
    T alpha, normaliser = Infinity<T>();
    int32_t index;
    if (r.sparse) {
      const Ranking<T> best = a.mlp ? Ranked() : Leaders(row);
      index = best.index();
      const T next = Shuffle(best.score(), a.k_top);
      const T gap = Lane() < a.k_top ? best.score() - next : T{0};
      normaliser = WarpSum(gap) + static_cast<T>(kEpsilon);
      alpha = gap / normaliser;
    } else {
      index = Lane() < r.count ? DenseMemoryAt(r, Lane(), row) : 0;
      alpha = DenseWeight(r, slot, row, index);
    }
    SyncWarp();  // few_index_ has been read
    few_alpha_[Lane()] = alpha;
    few_index_[Lane()] = index;
    if (Lane() < r.count) a.alpha[at * a.k_top + Lane()] = alpha;
    if (Lane() < r.count + (r.sparse ? 1 : 0)) a.recalled[at * (a.k_top + 1) + Lane()] = index;
    if (Lane() == 0) a.normaliser[at] = normaliser;
    SyncWarp();
    if (a.salient) Credit(r, row);
  }

  // The best of all warps' lists, to few_score_ and few_index_: a thread counts how many come before its entry.
  // Offering the entries to one ranking after another would take one warp a chain of dependent steps instead.
  SAB_DEVICE void RankLists() {
    const int width = a.k_top + 1;
    for (int e = ThreadInBlock(); e < Warps() * width; e += ThreadsOfBlock()) {
      const int mine = e / width * kLanes + e % width;
      const T score = list_[mine];
      const int32_t index = list_index_[mine];
      int place = 0;
      for (int warp = 0; warp < Warps(); ++warp)
#pragma unroll 4
        for (int i = 0; i < width; ++i) {
          const T other = list_[warp * kLanes + i];
          place += other > score || (other == score && list_index_[warp * kLanes + i] < index);
        }
      if (index == kNoIndex || place >= width) continue;
      few_score_[place] = score;
      few_index_[place] = index;
    }
    SyncBlock();
  }

  SAB_DEVICE Ranking<T> Ranked() const {
    const bool mine = Lane() <= a.k_top;
    return {a.k_top + 1, mine ? few_score_[Lane()] : T{0}, mine ? few_index_[Lane()] : 0};
  }

  SAB_DEVICE Ranking<T> Leaders(int row) const {
    return {a.k_top + 1, a.leader_score[row * kLanes + Lane()], a.leader_index[row * kLanes + Lane()]};
  }

  // This lane's weight by the setting `dense`.
  SAB_DEVICE T DenseWeight(const Reading& r, int64_t slot, int row, int32_t index) const {
    const bool mine = Lane() < r.count;
    T score = -Infinity<T>();
    if (mine) score = a.mlp ? few_score_[Lane()] : a.salience[int64_t{index} * a.rows + row];
    if (a.softmax) {
      const T largest = WarpMax(score);
      const T exponential = mine ? Exp(score - largest) : T{0};
      return exponential / WarpSum(exponential);
    }
    if (!a.mlp) score += QueryShift(slot, row);
    return mine ? score : T{0};
  }

  // w_q . tanh(h^), which a separable score adds to every memory's.
  SAB_DEVICE T QueryShift(int64_t slot, int row) const {
    T sum = 0;
    for (int h = Lane(); h < a.hidden; h += kLanes) {
      sum += a.query_score[h] * Tanh(LoadRemote(a.hat + State(slot, row) + h));
    }
    return WarpSum(sum);
  }

  SAB_DEVICE void Credit(const Reading& r, int row) const {
    const int64_t base = int64_t{row} * a.capacity;
    for (int64_t p = Lane(); p < r.live; p += kLanes)
      for (int k = 0; k < r.count; ++k)
        if (a.place_memory[base + p] == few_index_[k]) a.credit[base + p] += few_alpha_[k];
    SyncWarp();
  }

  SAB_DEVICE void Reload(const Reading& r, int64_t at) {
    if (Warp() != 0) return;
    if (Lane() < r.count) {
      few_alpha_[Lane()] = a.alpha[at * a.k_top + Lane()];
      few_index_[Lane()] = a.recalled[at * (a.k_top + 1) + Lane()];
    }
  }

  SAB_DEVICE void Mix(int64_t t, const Reading& r, int64_t slot, int row) const {
    const int64_t at = State(slot, row), after = State(slot + 1, row);
    const int64_t memory = State(t / a.k_att, row);
    const bool writes = t % a.k_att == 0 && !a.replay;
    for (int h = ThreadInBlock(); h < a.hidden; h += ThreadsOfBlock()) {
      T s = 0;
      for (int k = 0; k < r.count; ++k) s += few_alpha_[k] * a.memory[State(few_index_[k], row) + h];
      const T hat = LoadRemote(a.hat + at + h);
      a.context[at + h] = s;
      a.h[after + h] = hat + s;
      if (writes) a.memory[memory + h] = a.provisional ? hat : hat + s;
    }
  }

  // By one warp, when memory i has been written.
  SAB_DEVICE void Keep(int64_t i, int row) const {
    if (!a.mlp) {
      T sum = 0;
      for (int h = Lane(); h < a.hidden; h += kLanes) sum += score_weight_[h] * Tanh(a.memory[State(i, row) + h]);
      const T salience = WarpSum(sum);
      if (Lane() == 0) a.salience[i * a.rows + row] = salience;
      Ranking<T> leaders = Leaders(row);
      leaders.Offer(salience, static_cast<int32_t>(i));
      a.leader_score[row * kLanes + Lane()] = leaders.score();
      a.leader_index[row * kLanes + Lane()] = leaders.index();
    }
    if (a.salient) {
      const int64_t place = PlaceFor(i, row);
      if (Lane() == 0 && place >= 0) {
        a.place_memory[int64_t{row} * a.capacity + place] = static_cast<int32_t>(i);
        a.credit[int64_t{row} * a.capacity + place] = 0;
      }
    }
    SyncWarp();
  }

  // The place of a salient memory that memory i takes; -1: it is not kept. The last `recent` writes, this one included,
  // stay; of the others the one with the smallest credit leaves, among equals the oldest.
  SAB_DEVICE int64_t PlaceFor(int64_t i, int row) const {
    if (i < a.capacity) return i;
    const int64_t base = int64_t{row} * a.capacity, kept = a.recent < a.capacity - 1 ? a.recent : a.capacity - 1;
    double credit = Infinity<double>();
    int32_t memory = kNoIndex;
    int place = -1;
    for (int p = Lane(); p < a.capacity; p += kLanes) {
      const int32_t candidate = a.place_memory[base + p];
      if (p == 0 || candidate > i - kept) continue;
      if (LeavesBefore(a.credit[base + p], candidate, credit, memory)) {
        credit = a.credit[base + p];
        memory = candidate;
        place = p;
      }
    }
    for (int mask = kLanes / 2; mask > 0; mask /= 2) {
      const double other_credit = ShuffleXor(credit, mask);
      const int32_t other_memory = ShuffleXor(memory, mask);
      const int other_place = ShuffleXor(place, mask);
      if (!LeavesBefore(other_credit, other_memory, credit, memory)) continue;
      credit = other_credit;
      memory = other_memory;
      place = other_place;
    }
    return kept == 0 && credit > 0 ? -1 : place;
  }

  SAB_DEVICE static bool LeavesBefore(double credit, int32_t memory, double other_credit, int32_t other_memory) {
    return credit < other_credit || (credit == other_credit && memory < other_memory);
  }

  const SweepArguments<T>& a;
  T* const query_;         // (H)
  T* const score_weight_;  // (H)
  T* const exp_query_;     // (H) e^2Q
  T* const list_;          // (warps, 32)
  T* const few_score_;     // (32)
  T* const few_alpha_;     // (32)
  int32_t* const list_index_;
  int32_t* const few_index_;
  T tolerance_ = 0;
};

}  // namespace sab::model::cuda
