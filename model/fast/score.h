#pragma once

#include "model/fast/cell.h"

// The mlp score w . tanh(K + Q) over many memories, and the choice of the best.
//
// tanh(k + q) = 1 - 2 / (1 + e^2k e^2q): with e^2K kept from the write and e^2Q computed once a step, a term costs a
// multiplication, an addition and half a division (two terms share one). These scores are rough where tanh is small
// (absolute error about an ulp of 1 per term), so they only narrow the choice: what can still be among the best is
// scored again exactly.
//
// Error of a sum s of w_h r_h, r = 1 / (1 + E F), to first order in u, half an ulp of 1. E and F are within 2 ulp, 4 u
// each, and their product is rounded: 9 u of E F, which is 9 u (1 - r) of r. Rounding d, the two products, their sum,
// d0 d1, its reciprocal and the product with it adds 6.1 u. So a term is off by |w_h| u (9 r (1 - r) + 6.1 r), less
// than 6.4 u |w_h|. Adding up rounds each partial sum, which lies between the sums so far of the negative and of the
// positive w: `partial` is the sum of the larger of the two over all partial sums.
//   |s~ - s| <= u (6.4 |w|_1 + partial)
// An exact score is off by at most 10 u |w|_1 for its tanh (5 ulp) and u |w|_1 for each sum that a term goes through.
// A score is the sum of w less 2 s, so of two memories the one whose exact score is higher has a rough sum that is
// larger by at most twice the first bound and once the second: ScoreError.
//
// Where a sequence is constant for long, the cell reaches a fixed point and thousands of memories lie within that
// bound: their order is then that of rounding errors. Of more than MostCandidates those with the best rough sums
// are kept, of equal sums (equal keys have equal sums) the oldest.
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
        sum[g][v] += (d0 * w1 + d1 * w0) * Reciprocal<T>(d0 * d1);
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

// How much larger the rough sum of a memory may be than that of one whose exact score is not better. weight (H).
template <class T>
T ScoreError(const T* weight, int64_t hidden) {
  constexpr double kUnit = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;
  double positive = 0, negative = 0, partial = 0;
  for (int64_t h = 0; h < hidden; ++h) {
    const double w = static_cast<double>(weight[h]);
    (w < 0 ? negative : positive) += w < 0 ? -w : w;
    if (h % 2 == 1) partial += positive > negative ? positive : negative;
  }
  const double norm = positive + negative, depth = static_cast<double>(hidden / kWidth<T> + 4);
  return static_cast<T>(kUnit * (2 * (6.4 * norm + partial) + (10 + depth) * norm));
}

constexpr int64_t MostCandidates(int64_t limit) {
  return limit > 12 ? 2 * limit : 24;
}

// Fills up to a multiple of 16 with what is never among the best.
template <class T>
int64_t PadSums(T* sums, int64_t count) {
  for (; count % 16 != 0; ++count) sums[count] = static_cast<T>(__builtin_inf());
  return count;
}

// Adds s to the `limit` smallest, of which best (limit) holds `held`, ascending; returns how many it holds then.
template <class T>
SAB_INLINE int64_t KeepSmallest(T s, int64_t held, int64_t limit, T* best) {
  if (held == limit && !(s < best[limit - 1])) return held;
  int64_t place = held < limit ? held++ : limit - 1;
  for (; place > 0 && s < best[place - 1]; --place) best[place] = best[place - 1];
  best[place] = s;
  return held;
}

// A number that at least `limit` of sums (padded) do not exceed, in best[limit - 1], and the smallest of all in
// best[0]. Of the smallest in each of sixteen lanes, `limit` are no larger than the limit-th: a whole vector at a time.
template <class T>
void BoundBest(const T* sums, int64_t padded, int64_t limit, T* best) {
  constexpr int kVectors = 16 / kWidth<T>;
  int64_t held = 0;
  if (limit > 16) {
    for (int64_t i = 0; i < padded; ++i) held = KeepSmallest(sums[i], held, limit, best);
    return;
  }
  Vec<T> least[kVectors];
  for (int v = 0; v < kVectors; ++v) least[v] = Load(sums + v * kWidth<T>);
  for (int64_t i = 16; i < padded; i += 16)
    for (int v = 0; v < kVectors; ++v) least[v] = Min<T>(Load(sums + i + v * kWidth<T>), least[v]);
  T lanes[16];
  for (int v = 0; v < kVectors; ++v) Store(lanes + v * kWidth<T>, least[v]);
  for (int i = 0; i < 16; ++i) held = KeepSmallest(lanes[i], held, limit, best);
}

// How many of sums (padded) are not above cut.
template <class T>
int64_t CountUpTo(const T* sums, int64_t padded, T cut) {
  IntVec<T> above{};
  for (int64_t i = 0; i < padded; i += kWidth<T>) above -= Load(sums + i) > cut;
  int64_t count = padded;
  for (int v = 0; v < kWidth<T>; ++v) count -= above[v];
  return count;
}

// Writes, ascending, the places of the sums that are not above `sure`, and the first `room` of those above it and not
// above `maybe`.
template <class T>
int64_t Collect(const T* sums, int64_t padded, T sure, T maybe, int64_t room, int32_t* places) {
  int64_t found = 0;
  for (int64_t i = 0; i < padded; i += kWidth<T>) {
    const Vec<T> s = Load(sums + i);
    const uint32_t certain = Bits<T>(~(s > sure));
    uint32_t bits = room > 0 ? Bits<T>(~(s > maybe)) : certain;
    for (; bits != 0; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      if ((certain >> lane & 1) == 0 && --room < 0) continue;
      places[found++] = static_cast<int32_t>(i + lane);
    }
  }
  return found;
}

// The same for `most` sums or little fewer, the smallest, when more are not above cut: halves the interval until about
// as many are not above its lower end.
template <class T>
int64_t CollectSmallest(const T* sums, int64_t padded, T smallest, T cut, int64_t most, int32_t* places) {
  int64_t below = CountUpTo(sums, padded, smallest);
  if (below > most) return Collect(sums, padded, static_cast<T>(-__builtin_inf()), smallest, most, places);
  T low = smallest;
  while (below < 3 * most / 4) {
    const T middle = low + (cut - low) / 2;
    if (!(middle > low && middle < cut)) break;
    const int64_t count = CountUpTo(sums, padded, middle);
    if (count <= most) {
      low = middle;
      below = count;
    } else {
      cut = middle;
    }
  }
  return Collect(sums, padded, low, cut, most - below, places);
}

// Places among `count` whose rough sum may belong to the `limit` best, given their error, ascending: at most
// MostCandidates(limit) while no sum is NaN. sums has room up to a multiple of 16; `best` is scratch for `limit`
// numbers. Returns how many it wrote to `places`.
template <class T>
int64_t Candidates(T* sums, int64_t count, int64_t limit, T error, T* best, int32_t* places) {
  const int64_t padded = PadSums(sums, count), most = MostCandidates(limit);
  BoundBest(sums, padded, limit, best);
  T cut = best[limit - 1] + error;
  if (cut != cut) {
    for (int64_t i = 0; i < count; ++i) places[i] = static_cast<int32_t>(i);
    return count;
  }
  if (CountUpTo(sums, padded, cut) > most) return CollectSmallest(sums, padded, best[0], cut, most, places);
  const int64_t found = Collect(sums, padded, cut, cut, 0, places);
  int64_t held = 0, kept = 0;
  for (int64_t n = 0; n < found; ++n) held = KeepSmallest(sums[places[n]], held, limit, best);
  cut = best[limit - 1] + error;
  for (int64_t n = 0; n < found; ++n) {
    places[kept] = places[n];
    kept += !(sums[places[n]] > cut);  // NaN stays in
  }
  return kept;
}

}  // namespace sab::model::fast::SAB_ISA
