#pragma once

#include "model/cuda/arguments.h"

// Full self-attention of one row over its states: step t reads states 0 .. t-1 with the query W_q h_t. Nothing of it
// enters the recurrence, so it is computed when all states are known. Nothing of size T^2 is kept: going backward the
// weights are computed again from the scores' normaliser.
//
// Forward and for the queries' gradients a block takes kQueryTile queries of a row, for the memories' and keys'
// gradients kMemoryTile memories; either way it adds up in order, so the results are the same in every run.
namespace sab::model::cuda {

// Elements of shared memory that a block needs.
inline int64_t AttentionElements(int64_t hidden) {
  return int64_t{2} * kQueryTile * kMemoryTile + 4 * kQueryTile + hidden;
}

template <class T>
class Attention {
 public:
  SAB_DEVICE explicit Attention(const AttentionArguments<T>& arguments)
      : a(arguments),
        weight_(reinterpret_cast<T*>(SharedMemory())),
        d_(weight_ + kQueryTile * kMemoryTile),
        largest_(d_ + kQueryTile * kMemoryTile),
        sum_(largest_ + kQueryTile),
        factor_(sum_ + kQueryTile),
        mean_(factor_ + kQueryTile),
        score_(mean_ + kQueryTile) {
    for (int h = ThreadInBlock(); h < a.hidden; h += ThreadsOfBlock()) score_[h] = a.score[h];
    SyncBlock();
  }

  // Contexts and normalisers of the queries first .. first + kQueryTile - 1 (0-based) of a row.
  SAB_DEVICE void Forward(int row, int first) {
    const int queries = Queries(first), thread = ThreadInBlock();
    Clear(a.context, row, first, queries);
    if (thread < kQueryTile) {
      largest_[thread] = -Infinity();
      sum_[thread] = 0;
    }
    for (int memory = 0; memory < first + queries; memory += kMemoryTile) {
      SyncBlock();
      Scores(row, first, memory);
      SyncBlock();
      Rescale(first, memory);
      SyncBlock();
      AddMemories(row, first, memory);
    }
    for (int h = thread; a.softmax && h < a.hidden; h += ThreadsOfBlock())
      for (int q = 0; q < queries; ++q) a.context[State(first + q, row) + h] /= sum_[q];
    if (thread < queries) {
      a.normaliser[int64_t{first + thread} * a.rows + row] = a.softmax ? largest_[thread] + Log(sum_[thread]) : T{0};
    }
  }

  // The gradients of those queries, and this tile's share of the score's weights.
  SAB_DEVICE void BackwardQueries(int row, int first) {
    const int queries = Queries(first);
    Clear(a.d_query, row, first, queries);
    Clear(a.d_score, row, first / kQueryTile, 1);
    for (int memory = 0; memory < first + queries; memory += kMemoryTile) {
      Weigh(row, first, memory);
      for (int h = ThreadInBlock(); h < a.hidden; h += ThreadsOfBlock()) QueryGradients(row, first, memory, h);
    }
  }

  // The gradients of memories first .. first + kMemoryTile - 1 and of their keys.
  SAB_DEVICE void BackwardMemories(int row, int first) {
    const int memories = a.steps - first < kMemoryTile ? a.steps - first : kMemoryTile;
    Clear(a.d_memory, row, first, memories);
    Clear(a.d_key, row, first, memories);
    for (int query = first / kQueryTile * kQueryTile; query < a.steps; query += kQueryTile) {
      Weigh(row, query, first);
      for (int h = ThreadInBlock(); h < a.hidden; h += ThreadsOfBlock())
        MemoryGradients(row, query, first, memories, h);
    }
  }

 private:
  SAB_DEVICE static T Infinity() { return static_cast<T>(INFINITY); }
  SAB_DEVICE int64_t State(int64_t i, int row) const { return (i * a.rows + row) * a.hidden; }
  SAB_DEVICE int Queries(int first) const { return a.steps - first < kQueryTile ? a.steps - first : kQueryTile; }
  // Memories of a tile that any of the queries from `first` reads.
  SAB_DEVICE int Memories(int first, int memory) const {
    const int read = first + Queries(first) - memory;
    return read < kMemoryTile ? read : kMemoryTile;
  }
  // Whether query `query` (0-based) reads memory `memory`.
  SAB_DEVICE bool Reads(int query, int memory) const { return query < a.steps && memory <= query; }

  // Each thread clears the hidden units that it adds to later.
  SAB_DEVICE void Clear(T* states, int row, int first, int count) const {
    for (int h = ThreadInBlock(); h < a.hidden; h += ThreadsOfBlock())
      for (int i = 0; i < count; ++i) states[State(first + i, row) + h] = 0;
  }

  // weight_ (kQueryTile, kMemoryTile): the scores, a warp each; -infinity (or 0 without softmax) for what is not read.
  SAB_DEVICE void Scores(int row, int first, int memory) {
    for (int pair = Warp(); pair < kQueryTile * kMemoryTile; pair += Warps()) {
      const int q = first + pair / kMemoryTile, m = memory + pair % kMemoryTile;
      T score = a.softmax ? -Infinity() : T{0};
      if (Reads(q, m)) {
        T sum = 0;
        for (int h = Lane(); h < a.hidden; h += kLanes) {
          sum += score_[h] * Tanh(a.key[State(m, row) + h] + a.query[State(q, row) + h]);
        }
        score = WarpSum(sum);
      }
      if (Lane() == 0) weight_[pair] = score;
    }
  }

  // Scores to weights relative to the largest so far; factor_ brings earlier sums to it.
  SAB_DEVICE void Rescale(int first, int memory) {
    const int q = ThreadInBlock();
    if (q >= kQueryTile) return;
    factor_[q] = 1;
    if (!a.softmax || !Reads(first + q, memory)) {
      if (a.softmax)
        for (int m = 0; m < kMemoryTile; ++m) weight_[q * kMemoryTile + m] = 0;
      return;
    }
    T largest = largest_[q], sum = 0;
    for (int m = 0; m < kMemoryTile; ++m) {
      const T score = weight_[q * kMemoryTile + m];
      largest = score > largest || !(score == score) ? score : largest;
    }
    factor_[q] = Exp(largest_[q] - largest);
    for (int m = 0; m < kMemoryTile; ++m) {
      T& weight = weight_[q * kMemoryTile + m];
      weight = Exp(weight - largest);
      sum += weight;
    }
    sum_[q] = sum_[q] * factor_[q] + sum;
    largest_[q] = largest;
  }

  SAB_DEVICE void AddMemories(int row, int first, int memory) const {
    const int queries = Queries(first), memories = Memories(first, memory);
    for (int h = ThreadInBlock(); h < a.hidden; h += ThreadsOfBlock())
      for (int q = 0; q < queries; ++q) {
        T* const context = a.context + State(first + q, row) + h;
        T sum = *context * factor_[q];
        for (int m = 0; m < memories; ++m) {
          sum += weight_[q * kMemoryTile + m] * a.memory[State(memory + m, row) + h];
        }
        *context = sum;
      }
  }

  // weight_ and d_ of a tile of queries and one of memories: the weights alpha, and the scores' gradients.
  SAB_DEVICE void Weigh(int row, int first, int memory) {
    SyncBlock();
    LoadMeans(row, first);
    Scores(row, first, memory);
    WeightGradients(row, first, memory);
    SyncBlock();
    ScoreGradients(row, first, memory);
    SyncBlock();
  }

  SAB_DEVICE void QueryGradients(int row, int first, int memory, int h) const {
    const int queries = Queries(first), memories = Memories(first, memory);
    const T w = score_[h];
    T d_score = 0;
    for (int q = 0; q < queries; ++q) {
      const T x = a.query[State(first + q, row) + h];
      T d_query = 0;
      for (int m = 0; m < memories; ++m) {
        const T d = d_[q * kMemoryTile + m], u = Tanh(a.key[State(memory + m, row) + h] + x);
        d_score += d * u;
        d_query += d * w * (1 - u * u);
      }
      a.d_query[State(first + q, row) + h] += d_query;
    }
    a.d_score[State(first / kQueryTile, row) + h] += d_score;
  }

  SAB_DEVICE void MemoryGradients(int row, int query, int first, int memories, int h) const {
    const int queries = Queries(query);
    T x[kQueryTile], d_context[kQueryTile];
    for (int q = 0; q < kQueryTile; ++q) {
      x[q] = q < queries ? a.query[State(query + q, row) + h] : T{0};
      d_context[q] = q < queries ? a.d_context[State(query + q, row) + h] : T{0};
    }
    const T w = score_[h];
    for (int m = 0; m < memories; ++m) {
      const T key = a.key[State(first + m, row) + h];
      T d_key = 0, d_memory = 0;
      for (int q = 0; q < kQueryTile; ++q) {
        const T u = Tanh(key + x[q]);
        d_key += d_[q * kMemoryTile + m] * w * (1 - u * u);
        d_memory += weight_[q * kMemoryTile + m] * d_context[q];
      }
      a.d_key[State(first + m, row) + h] += d_key;
      a.d_memory[State(first + m, row) + h] += d_memory;
    }
  }

  // mean_ (kQueryTile): sum_i alpha_i dL/d alpha_i = dL/d s . s. It serves the softmax alone.
  SAB_DEVICE void LoadMeans(int row, int first) {
    for (int q = Warp(); q < Queries(first); q += Warps()) {
      T sum = 0;
      for (int h = Lane(); h < a.hidden; h += kLanes) {
        sum += a.d_context[State(first + q, row) + h] * a.context[State(first + q, row) + h];
      }
      sum = WarpSum(sum);
      if (Lane() == 0) mean_[q] = sum;
    }
  }

  // d_ (kQueryTile, kMemoryTile): dL/d alpha, a warp each.
  SAB_DEVICE void WeightGradients(int row, int first, int memory) {
    for (int pair = Warp(); pair < kQueryTile * kMemoryTile; pair += Warps()) {
      const int q = first + pair / kMemoryTile, m = memory + pair % kMemoryTile;
      T sum = 0;
      if (Reads(q, m)) {
        for (int h = Lane(); h < a.hidden; h += kLanes) {
          sum += a.d_context[State(q, row) + h] * a.memory[State(m, row) + h];
        }
        sum = WarpSum(sum);
      }
      if (Lane() == 0) d_[pair] = sum;
    }
  }

  // Scores to weights, dL/d alpha to dL/d score.
  SAB_DEVICE void ScoreGradients(int row, int first, int memory) {
    if (!a.softmax) return;
    for (int pair = ThreadInBlock(); pair < kQueryTile * kMemoryTile; pair += ThreadsOfBlock()) {
      const int q = pair / kMemoryTile, m = memory + pair % kMemoryTile;
      if (!Reads(first + q, m)) {
        weight_[pair] = 0;
        d_[pair] = 0;
        continue;
      }
      const T alpha = Exp(weight_[pair] - a.normaliser[int64_t{first + q} * a.rows + row]);
      weight_[pair] = alpha;
      d_[pair] = alpha * (d_[pair] - mean_[q]);
    }
  }

  const AttentionArguments<T>& a;
  T* const weight_;   // (kQueryTile, kMemoryTile)
  T* const d_;        // (kQueryTile, kMemoryTile)
  T* const largest_;  // (kQueryTile)
  T* const sum_;      // (kQueryTile)
  T* const factor_;   // (kQueryTile)
  T* const mean_;     // (kQueryTile)
  T* const score_;    // (H)
};

}  // namespace sab::model::cuda
