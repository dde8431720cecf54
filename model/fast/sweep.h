#pragma once

#include "model/fast/attention.h"
#include "model/fast/outputs.h"
#include "model/fast/recall.h"

// One block of rows through the whole sequence.
//
// Forward, a step keeps its gates, c, h, W_q h^ and what it recalled. Backward goes chunk by chunk from the end:
// outputs and loss of the chunk, then its steps in descending order, then the weight gradients as sums of outer
// products over the chunk. With recompute only the state before each chunk and the recalls are kept, and a chunk's
// steps are run again first.
//
// Between two chunks a training pass can be left, and taken up again (Pauses). Of steps that went forward before that,
// gates and queries are not kept: without recompute they too are run again, once.
//
// Kind attention is an lstm whose states are read when all are known, and whose way back starts with what that reading
// sends them.
namespace sab::model::fast::SAB_ISA {

template <class T>
class Sweep {
 public:
  explicit Sweep(const Block<T>& block)
      : b_(block),
        w_(block.work),
        memories_(block),
        attention_(block),
        outputs_(block),
        rows_(block.rows()),
        hidden_(block.hidden()) {}

  // False: left in the middle, see Pauses.
  bool Train();
  void Evaluate();

 private:
  T* Gates(int64_t t) const { return w_.gates + b_.Slot(t) * 4 * b_.state(); }
  T* CellBefore(int64_t t) const { return w_.c + b_.Slot(t) * b_.state(); }
  T* HiddenBefore(int64_t t) const { return w_.h + b_.Slot(t) * b_.state(); }
  T* Query(int64_t t) const { return w_.q + b_.Slot(t) * b_.state(); }
  T* Chunked(T* buffer, int64_t t) const { return buffer + b_.InChunk(t) * b_.state(); }
  T* Context(int64_t t) const { return b_.plan.recalls() ? Chunked(w_.context, t) : nullptr; }
  int64_t ChunkEnd(int64_t first) const { return Smaller(first + b_.plan.chunk - 1, b_.plan.steps); }
  bool Recalls() const { return b_.plan.recalls(); }
  bool HasQuery() const { return Recalls() && b_.plan.has_keys(); }

  bool Attends() const { return b_.plan.config.kind == Kind::kAttention; }
  // What outputs (and attention) send to h_t.
  const T* FromOutputs(int64_t t) const { return Attends() ? w_.d_states + t * b_.state() : Chunked(w_.d_out_h, t); }

  void Begin();
  bool ForwardAll(Place* place);
  Place Resume();
  bool GoesOn(Place* place) const;
  void ReadStates();
  void BeginChunk(int64_t first);
  void Forward(int64_t t, bool again);
  void ForwardCell(int64_t t);
  void ForwardRecall(int64_t t, bool again, T* h);
  void ProjectInputs(int64_t t, T* gates) const;
  void TrackNorm(int64_t t, const T* h) const;
  void BackwardChunk(int64_t first);
  void Restore(int64_t first);
  bool IsLive(int64_t t) const;
  void SkipBackward(int64_t t);
  void Backward(int64_t t, bool has_output);
  void BackwardRecall(int64_t t, bool has_output);
  void WeightGradients(int64_t first, int64_t last);
  void InputGradients(int64_t first, int64_t last);

  const Block<T>& b_;
  const Workspace<T>& w_;
  Memories<T> memories_;
  Attention<T> attention_;
  Outputs<T> outputs_;
  const int64_t rows_;
  const int64_t hidden_;
  bool live_ = false;  // going backward: d_h or d_c may differ from 0
  int64_t bare_ = 0;   // of so many chunks only the first states are there
};

template <class T>
void Sweep<T>::Begin() {
  Zero(w_.c, b_.state());
  Zero(w_.h, b_.state());
  if (Recalls()) memories_.Reset();
}

// Where slots are reused, the last state of the chunk before becomes the first of this one.
template <class T>
void Sweep<T>::BeginChunk(int64_t first) {
  const int64_t state = b_.state();
  if (!b_.keeps_all_steps() && first > 1) {
    Copy(w_.c + b_.plan.chunk * state, w_.c, state);
    Copy(w_.h + b_.plan.chunk * state, w_.h, state);
  }
  if (w_.starts == nullptr) return;
  T* start = w_.starts + (first - 1) / b_.plan.chunk * 2 * state;
  Copy(w_.h, start, state);
  Copy(w_.c, start + state, state);
}

template <class T>
void Sweep<T>::ProjectInputs(int64_t t, T* gates) const {
  const int64_t wide = 4 * hidden_, inputs = b_.plan.inputs;
  for (int64_t r = 0; r < rows_; ++r) {
    T* out = gates + r * wide;
    if (b_.in.symbols != nullptr) {
      Copy(b_.net.input_gates + b_.in.symbols[r * b_.plan.steps + t - 1] * wide, out, wide);
      continue;
    }
    const T* x = b_.in.x + (r * b_.plan.steps + t - 1) * inputs;
    int64_t i = 0;
    while (i + 1 < inputs && x[i] == 0) ++i;
    const T* const column = b_.net.input_gates + i * wide;
    for (int64_t j = 0; j < wide; j += kWidth<T>) Store(out + j, Load(b_.net.bias + j) + x[i] * Load(column + j));
    for (++i; i < inputs; ++i) {
      if (x[i] != 0) AddScaled(x[i], b_.net.input_gates + i * wide, out, wide);
    }
  }
}

template <class T>
void Sweep<T>::TrackNorm(int64_t t, const T* h) const {
  for (int64_t r = 0; r < rows_; ++r) {
    if (b_.Ends(r, t)) continue;
    const double square = static_cast<double>(Dot(h + r * hidden_, h + r * hidden_, hidden_));
    if (!(square <= b_.sums->max_hidden_square)) b_.sums->max_hidden_square = square;  // NaN shows
  }
}

// again: the step has run before and its recalls are known.
template <class T>
void Sweep<T>::Forward(int64_t t, bool again) {
  T* const h = HiddenBefore(t) + b_.state();
  ForwardCell(t);
  if (Recalls()) ForwardRecall(t, again, h);
  if (!again) TrackNorm(t, h);
}

template <class T>
void Sweep<T>::ForwardCell(int64_t t) {
  T* const gates = Gates(t);
  const T* const c_before = CellBefore(t);
  {
    const Timed timed(b_.in.ticks, kCellProducts);
    ProjectInputs(t, gates);
    if (t > 1) MultiplyPacked(HiddenBefore(t), hidden_, rows_, {b_.net.w_hh, hidden_, 4 * hidden_}, gates, true);
  }
  const Timed timed(b_.in.ticks, kCellPointwise);
  T* const c = CellBefore(t) + b_.state();
  T* const h = HiddenBefore(t) + b_.state();
  for (int64_t r = 0; r < rows_; ++r) {
    const int64_t at = r * hidden_;
    CellForward(gates + 4 * at, c_before + at, c + at, h + at, hidden_);
  }
}

// h: the state before recall in, h_t out.
template <class T>
void Sweep<T>::ForwardRecall(int64_t t, bool again, T* h) {
  const ModelConfig& config = b_.plan.config;
  const bool writes = !again && t % config.k_att == 0;
  const bool provisional = config.memory_state == MemoryState::kProvisional;
  T* const memory = writes ? w_.memory + t / config.k_att * b_.state() : nullptr;
  if (writes && provisional) Copy(h, memory, b_.state());
  T* const q = HasQuery() ? Query(t) : nullptr;
  if (HasQuery()) {
    const Timed timed(b_.in.ticks, kQueries);
    MultiplyPacked(h, hidden_, rows_, b_.Square(b_.net.w_q), q, false);
  }
  {
    const Timed timed(b_.in.ticks, kRecall);
    if (again) {
      memories_.Replay(t, q, h, Context(t));
    } else {
      memories_.Recall(t, q, h, Context(t));
    }
  }
  if (!writes) return;
  const Timed timed(b_.in.ticks, kKeys);
  memories_.Write(t, provisional ? memory : h);
}

// Where the pass is taken up: in the middle, or at its beginning.
template <class T>
Place Sweep<T>::Resume() {
  Place place;
  if (b_.in.pauses == nullptr || !b_.in.pauses->resume(b_.in.pauses->context, &place)) return Place();
  memories_.Resume(place.written);
  live_ = place.live;
  bare_ = place.forward;
  return place;
}

template <class T>
bool Sweep<T>::GoesOn(Place* place) const {
  if (b_.in.pauses == nullptr) return true;
  place->written = memories_.written();
  place->live = live_;
  return b_.in.pauses->between(b_.in.pauses->context, *place);
}

template <class T>
bool Sweep<T>::ForwardAll(Place* place) {
  const bool outputs_now = b_.gradients == nullptr && !Attends();
  const int64_t chunks = b_.plan.chunks();
  while (place->forward < chunks) {
    const int64_t first = 1 + place->forward * b_.plan.chunk, last = ChunkEnd(first), count = last - first + 1;
    BeginChunk(first);
    for (int64_t t = first; t <= last; ++t) Forward(t, false);
    const T* h = HiddenBefore(first) + b_.state();
    if (outputs_now) outputs_.Pass(first, count, h, Context(first));
    if (Attends()) Copy(h, w_.states + first * b_.state(), count * b_.state());
    ++place->forward;
    if (place->forward < chunks && !GoesOn(place)) return false;
  }
  return true;
}

// Kind attention, once all states are known: contexts and outputs; in training also the gradients of the states.
template <class T>
void Sweep<T>::ReadStates() {
  const int64_t state = b_.state();
  {
    const Timed timed(b_.in.ticks, kAttention);
    attention_.Forward();
  }
  for (int64_t first = 1; first <= b_.plan.steps; first += b_.plan.chunk) {
    const int64_t count = ChunkEnd(first) - first + 1;
    T* const contexts = w_.contexts + (first - 1) * state;
    const bool any = outputs_.Pass(first, count, w_.states + first * state, contexts);
    if (b_.gradients == nullptr) continue;
    if (any) {
      Copy(w_.d_out_h, w_.d_states + first * state, count * state);
      Copy(w_.d_out_s, contexts, count * state);
    } else {
      Zero(w_.d_states + first * state, count * state);
      Zero(contexts, count * state);
    }
  }
  if (b_.gradients == nullptr) return;
  const Timed timed(b_.in.ticks, kAttention);
  attention_.Backward();
}

template <class T>
void Sweep<T>::Evaluate() {
  Begin();
  Place place;
  ForwardAll(&place);
  if (Attends()) ReadStates();
}

template <class T>
bool Sweep<T>::Train() {
  for (int64_t i = 0; i < kPad; ++i) w_.ones[i] = 1;
  Begin();
  Place place = Resume();
  if (place.left < 0) {
    if (!ForwardAll(&place)) return false;
    if (Attends()) ReadStates();
    if (Recalls()) memories_.ClearGradients();
    Zero(w_.d_h, b_.state());
    Zero(w_.d_c, b_.state());
    place.left = b_.plan.chunks();
  }
  while (place.left > 0) {
    --place.left;
    BackwardChunk(1 + place.left * b_.plan.chunk);
    if (place.left > 0 && !GoesOn(&place)) return false;
  }
  return true;
}

// Brings the chunk's steps back to where Forward left them; its contexts too.
template <class T>
void Sweep<T>::Restore(int64_t first) {
  const int64_t state = b_.state();
  if (!b_.plan.recompute && (first - 1) / b_.plan.chunk >= bare_) {
    if (!Recalls()) return;
    for (int64_t t = first; t <= ChunkEnd(first); ++t) {
      memories_.Replay(t, HasQuery() ? Query(t) : nullptr, nullptr, Context(t));
    }
    return;
  }
  if (w_.starts != nullptr) {
    const T* start = w_.starts + (first - 1) / b_.plan.chunk * 2 * state;
    Copy(start, w_.h, state);
    Copy(start + state, w_.c, state);
  }
  for (int64_t t = first; t <= ChunkEnd(first); ++t) Forward(t, true);
}

// Whether step t has a gradient to pass on: from its output, from later steps or from recalls of what it wrote. With
// the loss at the last step alone and truncation most steps of a long sequence have none.
template <class T>
bool Sweep<T>::IsLive(int64_t t) const {
  return live_ || Attends() || outputs_.AnyLoss(t, 1) || (Recalls() && memories_.HasGradient(t));
}

template <class T>
void Sweep<T>::BackwardChunk(int64_t first) {
  const int64_t last = ChunkEnd(first);
  int64_t top = last;
  while (top >= first && !IsLive(top)) --top;
  if (top < first) return;
  Restore(first);
  const bool has_output =
      Attends() || outputs_.Pass(first, last - first + 1, HiddenBefore(first) + b_.state(), Context(first));
  int64_t bottom = top;
  for (int64_t t = top; t >= first; --t) {
    if (IsLive(t)) {
      Backward(t, has_output);
      live_ = !(b_.Truncates(t) && b_.plan.config.truncate == Truncate::kBoth);
      bottom = t;
    } else {
      SkipBackward(t);
    }
  }
  WeightGradients(bottom, top);
}

// A step without gradient contributes nothing to the weights either.
template <class T>
void Sweep<T>::SkipBackward(int64_t t) {
  Zero(Gates(t), 4 * b_.state());
  if (!HasQuery()) return;
  Zero(Query(t), b_.state());
  Zero(Chunked(w_.hat, t), b_.state());
}

// d_h is the gradient of h_t: adds what recall at step t sends to h^_t, and to memories.
template <class T>
void Sweep<T>::BackwardRecall(int64_t t, bool has_output) {
  const Timed timed(b_.in.ticks, kRecallBackward);
  const int64_t state = b_.state();
  const ModelConfig& config = b_.plan.config;
  T* const hat = Chunked(w_.hat, t);
  const bool writes = t % config.k_att == 0;
  if (writes && config.memory_state == MemoryState::kRecalled) memories_.AddStateGradient(t, w_.d_h);
  Copy(w_.d_h, w_.d_hat, state);
  if (writes && config.memory_state == MemoryState::kProvisional) memories_.AddStateGradient(t, w_.d_hat);
  T* const d_s = Chunked(w_.d_out_s, t);
  if (has_output) {
    Add(w_.d_h, d_s, state);
  } else {
    Copy(w_.d_h, d_s, state);
  }
  T* const q = HasQuery() ? Query(t) : nullptr;
  memories_.Backward(t, d_s, hat, q, w_.d_hat);
  if (HasQuery() && !config.detach_scores) {
    MultiplyPacked(q, hidden_, rows_, b_.Square(b_.net.w_q_back), w_.d_hat, true);
  }
}

template <class T>
void Sweep<T>::Backward(int64_t t, bool has_output) {
  const int64_t state = b_.state(), wide = 4 * hidden_;
  T* const gates = Gates(t);
  const T* const c_before = CellBefore(t);
  T* const c = CellBefore(t) + state;  // the steps that needed it as c_before have gone back
  if (has_output) Add(FromOutputs(t), w_.d_h, state);
  const T* d_hat = w_.d_h;
  if (Recalls()) {
    T* const hat = Chunked(w_.hat, t);
    for (int64_t r = 0; r < rows_; ++r) CellOutput(gates + r * wide, c + r * hidden_, hat + r * hidden_, hidden_);
    BackwardRecall(t, has_output);
    d_hat = w_.d_hat;
  }
  const Timed timed(b_.in.ticks, kCellBackward);
  for (int64_t r = 0; r < rows_; ++r) {
    const int64_t at = r * hidden_;
    const auto backward = Recalls() ? &CellBackward<T, true> : &CellBackward<T, false>;
    backward(gates + 4 * at, c_before + at, c + at, d_hat + at, w_.d_c + at, hidden_);
  }
  if (b_.Truncates(t)) {
    Zero(w_.d_h, state);
    if (b_.plan.config.truncate == Truncate::kBoth) Zero(w_.d_c, state);
  } else if (t > 1) {
    MultiplyPacked(gates, wide, rows_, {b_.net.w_hh_back, wide, hidden_}, w_.d_h, false);
  }
}

template <class T>
void Sweep<T>::InputGradients(int64_t first, int64_t last) {
  const int64_t wide = 4 * hidden_;
  for (int64_t t = first; t <= last; ++t)
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t from = r * b_.plan.steps + t - 1;
      if (b_.in.symbols != nullptr) {
        Add(Gates(t) + r * wide, b_.gradients->input_gates + b_.in.symbols[from] * wide, wide);
      } else {
        const int64_t inputs = b_.plan.inputs;
        Copy(b_.in.x + from * inputs, w_.x + ((t - first) * rows_ + r) * inputs, inputs);
      }
    }
}

template <class T>
void Sweep<T>::WeightGradients(int64_t first, int64_t last) {
  const Timed timed(b_.in.ticks, kWeightGradients);
  const Gradients<T>& g = *b_.gradients;
  const int64_t depth = (last - first + 1) * rows_;
  InputGradients(first, last);
  const OuterOperand<T> gate_operands[] = {{HiddenBefore(first), hidden_, hidden_, g.w_hh},
                                           {w_.ones, 0, 1, g.bias},
                                           {w_.x, b_.plan.inputs, b_.plan.inputs, g.input_gates}};
  AddOuterProducts(gate_operands, b_.plan.inputs > 0 ? 3 : 2, Gates(first), 4 * hidden_, depth, 4 * hidden_, w_.outer);
  if (!HasQuery()) return;
  const OuterOperand<T> queries{Query(first), hidden_, hidden_, g.w_q};
  AddOuterProducts(&queries, 1, Chunked(w_.hat, first), hidden_, depth, hidden_, w_.outer);
  const int64_t from = (first + b_.plan.config.k_att - 1) / b_.plan.config.k_att, to = last / b_.plan.config.k_att;
  if (from > to) return;
  const OuterOperand<T> keys{memories_.KeyGradients(from, to), hidden_, hidden_, g.w_m};
  AddOuterProducts(&keys, 1, w_.memory + from * b_.state(), hidden_, (to - from + 1) * rows_, hidden_, w_.outer);
}

}  // namespace sab::model::fast::SAB_ISA
