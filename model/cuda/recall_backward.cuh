#pragma once

#include "model/cuda/recall.cuh"

// The way back through the recall of one row at one step: it touches the recalled memories and no others.
namespace sab::model::cuda {

template <class T>
class MemoriesBackward {
 public:
  SAB_DEVICE explicit MemoriesBackward(const SweepArguments<T>& arguments)
      : a(arguments),
        reader_(arguments),
        query_(reinterpret_cast<T*>(SharedMemory() + a.layout.vectors)),
        weight_(query_ + a.hidden),
        d_context_(weight_ + a.hidden),
        few_d_(reinterpret_cast<T*>(SharedMemory() + a.layout.few)),
        few_alpha_(few_d_ + kLanes),
        few_index_(reinterpret_cast<int32_t*>(SharedMemory() + a.layout.few_index)) {}

  // a.d_h holds what the cell of step t+1 sends to h_t. Leaves in a.d_hat what h^_t gets, but for what goes through the
  // query, whose gradient takes the query's place; adds to the gradients of memories, keys (or saliences) and of the
  // score's weights.
  SAB_DEVICE void Backward(int64_t t, int row, int64_t slot, int64_t recall_slot) {
    const Reading reading = reader_.ReadingAt(t);
    const int64_t at = recall_slot * a.rows + row;
    const int touched = reading.count + (reading.sparse ? 1 : 0);
    SyncBlock();  // the row before is done with shared memory
    if (Warp() == 0) Load(reading, touched, at);
    for (int h = ThreadInBlock(); h < a.hidden; h += ThreadsOfBlock()) StateGradient(t, row, slot, h);
    SyncBlock();
    for (int k = Warp(); k < reading.count; k += Warps()) WeightGradient(k, row);
    SyncBlock();
    if (Warp() == 0) ScoreGradients(reading, at, row);
    SyncBlock();
    const T shift = !a.mlp && !reading.sparse && !a.softmax ? Shift(reading) : T{0};
    for (int h = ThreadInBlock(); h < a.hidden; h += ThreadsOfBlock()) {
      MemoryGradients(reading.count, row, h);
      if (a.mlp) KeyGradients(touched, row, slot, h);
      if (!a.mlp && !reading.sparse && !a.softmax) ShiftGradients(shift, row, slot, h);
    }
  }

 private:
  SAB_DEVICE int64_t State(int64_t i, int row) const { return (i * a.rows + row) * a.hidden; }

  SAB_DEVICE void Load(const Reading& r, int touched, int64_t at) const {
    few_alpha_[Lane()] = Lane() < r.count ? a.alpha[at * a.k_top + Lane()] : T{0};
    few_index_[Lane()] = Lane() < touched ? a.recalled[at * (a.k_top + 1) + Lane()] : 0;
  }

  // What the state written as memory t / k_att has received from its recalls.
  SAB_DEVICE T MemoryGradient(int64_t t, int row, int h) const {
    const int64_t i = t / a.k_att;
    const bool through_score = a.mental_updates && !a.detach_scores;
    T d = a.mental_updates ? a.d_memory[State(i, row) + h] : T{0};
    if (a.mlp) return through_score ? d + LoadRemote(a.d_write + State(0, row) + h) : d;
    const T d_salience = a.d_salience[i * a.rows + row], u = Tanh(a.memory[State(i, row) + h]);
    a.d_score[State(0, row) + h] += d_salience * u;
    return through_score ? d + d_salience * weight_[h] * (1 - u * u) : d;
  }

  SAB_DEVICE void StateGradient(int64_t t, int row, int64_t slot, int h) const {
    const int64_t out = State(t - a.first, row) + h;
    const T written = t % a.k_att == 0 ? MemoryGradient(t, row, h) : T{0};
    const T d_h = LoadRemote(a.d_h + State(0, row) + h) + a.d_out_h[out] + (a.provisional ? T{0} : written);
    a.d_hat[State(0, row) + h] = a.provisional ? d_h + written : d_h;
    d_context_[h] = d_h + a.d_out_s[out];
    if (a.mlp) query_[h] = LoadRemote(a.query + State(slot, row) + h);
  }

  // dL/d alpha_k, by one warp.
  SAB_DEVICE void WeightGradient(int k, int row) const {
    T sum = 0;
    for (int h = Lane(); h < a.hidden; h += kLanes) sum += d_context_[h] * a.memory[State(few_index_[k], row) + h];
    sum = WarpSum(sum);
    if (Lane() == 0) few_d_[k] = sum;
  }

  // From dL/d alpha to dL/d score, in the sparse phase of the (k_top+1)-th too; by warp 0.
  SAB_DEVICE void ScoreGradients(const Reading& r, int64_t at, int row) const {
    const bool mine = Lane() < r.count;
    const T alpha = few_alpha_[Lane()];
    T d = mine ? few_d_[Lane()] : T{0};
    const T mean = WarpSum(alpha * d);
    if (r.sparse) {
      const T normaliser = a.normaliser[at];
      const bool guarded = a.tie_guard > 0 && normaliser < a.tie_guard;
      d = mine && alpha > 0 && !guarded ? (d - mean) / normaliser : T{0};
      const T total = WarpSum(d);
      if (Lane() == r.count) d = -total;
    } else if (a.softmax) {
      d = mine ? alpha * (d - mean) : T{0};
    }
    few_d_[Lane()] = d;
    if (!a.mlp && Lane() < r.count + (r.sparse ? 1 : 0)) {
      a.d_salience[int64_t{few_index_[Lane()]} * a.rows + row] += d;
    }
  }

  SAB_DEVICE void MemoryGradients(int count, int row, int h) const {
    for (int k = 0; k < count; ++k) a.d_memory[State(few_index_[k], row) + h] += few_alpha_[k] * d_context_[h];
  }

  SAB_DEVICE void KeyGradients(int touched, int row, int64_t slot, int h) const {
    const T q = query_[h], w = weight_[h];
    T d_weight = 0, d_query = 0;
    for (int k = 0; k < touched; ++k) {
      if (few_d_[k] == 0) continue;
      const int64_t key = State(few_index_[k], row) + h;
      const T u = Tanh(LoadRemote(a.key + key) + q), d = few_d_[k] * w * (1 - u * u);
      d_weight += few_d_[k] * u;
      d_query += d;
      a.d_key[key] += d;
    }
    a.d_score[State(0, row) + h] += d_weight;
    a.query[State(slot, row) + h] = d_query;
  }

  // Of what the query adds to every score alike.
  SAB_DEVICE T Shift(const Reading& r) const {
    T sum = 0;
    for (int k = 0; k < r.count; ++k) sum += few_d_[k];
    return sum;
  }

  SAB_DEVICE void ShiftGradients(T shift, int row, int64_t slot, int h) const {
    const T u = Tanh(LoadRemote(a.hat + State(slot, row) + h));
    a.d_query_score[State(0, row) + h] += shift * u;
    if (!a.detach_scores) a.d_hat[State(0, row) + h] += shift * a.query_score[h] * (1 - u * u);
  }

  const SweepArguments<T>& a;
  const Memories<T> reader_;
  T* const query_;      // (H)
  T* const weight_;     // (H)
  T* const d_context_;  // (H)
  T* const few_d_;      // (32)
  T* const few_alpha_;  // (32)
  int32_t* const few_index_;
};

}  // namespace sab::model::cuda
