#pragma once

#include "model/fast/cell.h"

// The mlp score w . tanh(K + Q) over many memories, and the choice of the best.
//
// tanh(k + q) = 1 - 2 / (1 + e^2k e^2q): with e^2K kept from the write and e^2Q computed once a step, a term costs a
// multiplication, an addition and half a division (two terms share one). These scores are rough where tanh is small
// (absolute error about an ulp of 1 per term), so they only narrow the choice: what can still be among the best is
// scored again exactly.
namespace sab::model::fast::SAB_ISA {

// Largest |K| + |Q| for the factored form: (1 + e^44)^2 is finite in fp32.
template <class T>
constexpr T kFactoredLimit = static_cast<T>(20);

// The score itself. key, query, weight (H).
template <class T>
SAB_INLINE T ExactScore(const T* key, const T* query, const T* weight, int64_t hidden) {
  Vec<T> sum{};
  for (int64_t j = 0; j < hidden; j += kWidth<T>) sum += Load(weight + j) * Tanh<T>(Load(key + j) + Load(query + j));
  const T score = Sum<T>(sum);
  return score == score ? score
                        : static_cast<T>(__builtin_inf());  // NaN must not hide: it wins, and the sums become NaN
}

// Sum over h of w_h / (1 + E_h F_h) for kGroups groups of sixteen memories. exp_keys (groups, H, 16); H is even.
template <class T, int kGroups>
SAB_INLINE void ReciprocalSums(const T* exp_keys, const T* exp_query, const T* weight, int64_t hidden, T* sums) {
  constexpr int kVectors = 16 / kWidth<T>;
  Vec<T> sum[kGroups][kVectors] = {};
  const Vec<T> one = Fill<T>(1);
  for (int64_t h = 0; h < hidden; h += 2) {
    const Vec<T> f0 = Fill<T>(exp_query[h]), f1 = Fill<T>(exp_query[h + 1]);
    const Vec<T> w0 = Fill<T>(weight[h]), w1 = Fill<T>(weight[h + 1]);
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const T* e = exp_keys + (g * hidden + h) * 16 + v * kWidth<T>;
        const Vec<T> d0 = Load(e) * f0 + one, d1 = Load(e + 16) * f1 + one;
        sum[g][v] += (d0 * w1 + d1 * w0) / (d0 * d1);
      }
  }
  for (int g = 0; g < kGroups; ++g)
    for (int v = 0; v < kVectors; ++v) Store(sums + g * 16 + v * kWidth<T>, sum[g][v]);
}

// sums[i] for i below count, rounded up to 16: a score is weight_sum - 2 sums[i]. Smaller is better.
template <class T>
void FactoredScores(const T* exp_keys, const T* exp_query, const T* weight, int64_t hidden, int64_t count, T* sums) {
  constexpr int kGroups = kVectorBytes >= 64 ? 4 / (sizeof(T) / 4) : 1;
  const int64_t groups = (count + 15) / 16;
  int64_t g = 0;
  for (; g + kGroups <= groups; g += kGroups) {
    ReciprocalSums<T, kGroups>(exp_keys + g * hidden * 16, exp_query, weight, hidden, sums + g * 16);
  }
  for (; g < groups; ++g) ReciprocalSums<T, 1>(exp_keys + g * hidden * 16, exp_query, weight, hidden, sums + g * 16);
}

// The best `limit` of what was offered, by score descending, then index ascending.
template <class T>
struct Ranking {
  T* scores;       // (limit)
  int32_t* index;  // (limit)
  int64_t limit;
  int64_t count = 0;

  SAB_INLINE bool Beats(T score, int32_t i, int64_t place) const {
    return score > scores[place] || (score == scores[place] && i < index[place]);
  }

  void Offer(T score, int32_t i) {
    if (count == limit && !Beats(score, i, limit - 1)) return;
    int64_t place = count < limit ? count++ : limit - 1;
    for (; place > 0 && Beats(score, i, place - 1); --place) {
      scores[place] = scores[place - 1];
      index[place] = index[place - 1];
    }
    scores[place] = score;
    index[place] = i;
  }
};

// Places among `count` whose factored sum may belong to the `limit` best, given that a score is off by at most `error`.
// `best` is scratch for `limit` numbers. Returns how many it wrote to `candidates`.
template <class T>
int64_t Candidates(const T* sums, int64_t count, int64_t limit, T error, T* best, int32_t* candidates) {
  int64_t held = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T s = sums[i];
    if (held == limit && !(s < best[limit - 1])) continue;
    int64_t place = held < limit ? held++ : limit - 1;
    for (; place > 0 && s < best[place - 1]; --place) best[place] = best[place - 1];
    best[place] = s;
  }
  const T cut = best[held - 1] + error;
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    candidates[found] = static_cast<int32_t>(i);
    found += !(sums[i] > cut);  // NaN stays in
  }
  return found;
}

}  // namespace sab::model::fast::SAB_ISA
