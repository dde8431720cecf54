#include "model/fast/plan.h"

#include <algorithm>

namespace sab::model::fast {
namespace {

// Of one block in work: above the first, `recompute: auto` turns it on; above the second, blocks have fewer rows.
constexpr size_t kRecomputeBytes = size_t{512} << 20;
constexpr size_t kLargestBytes = size_t{1} << 30;

int64_t RoundUp(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

// Hands out consecutive 64-byte aligned pieces; with a null base it only counts.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}

  template <class T>
  void Take(T** field, int64_t count) {
    *field = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += static_cast<size_t>(RoundUp(count * static_cast<int64_t>(sizeof(T)), 64));
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

void SetRows(int64_t rows, Plan* p) {
  p->rows = rows;
  p->chunk = std::min<int64_t>(p->steps, std::max<int64_t>(16, 512 / rows));
  p->recompute = p->backward && p->config.recompute == Recompute::kOn;
  if (p->backward && p->config.recompute == Recompute::kAuto) {
    p->recompute = LayOutWorkspace<float>(*p, nullptr).bytes > kRecomputeBytes;
  }
}

// Eight rows fill a tile of the matrix products; more were no faster and take more memory, unless the weights do not
// fit a second-level cache: then more rows share what is read from beyond it (16 in place of 8 took 18 % off a step of
// H = 512). A small batch makes two blocks, a large network's four.
int64_t RowsPerBlock(int64_t rows, int64_t hidden) {
  const int64_t most = hidden > 256 ? std::clamp<int64_t>(rows / 4, 8, 32) : 8;
  return std::min<int64_t>(most, (rows + 1) / 2);
}

template <class T>
void TakeSteps(const Plan& p, Arena& arena, Workspace<T>* w) {
  const int64_t state = p.rows * p.hidden;
  arena.Take(&w->gates, p.slots() * 4 * state);
  arena.Take(&w->c, (p.slots() + 1) * state);
  arena.Take(&w->h, (p.slots() + 1) * state);
  if (p.recalls() && p.has_keys()) arena.Take(&w->q, p.slots() * state);
  if (p.backward && p.recompute) arena.Take(&w->starts, p.chunks() * 2 * state);
}

// Of the score `mlp`.
template <class T>
void TakeKeys(const Plan& p, Arena& arena, Workspace<T>* w) {
  const int64_t state = p.rows * p.hidden;
  arena.Take(&w->key, p.places() * state);
  arena.Take(&w->key_limit, p.rows);
  if (p.config.recall == Recall::kTop) {
    arena.Take(&w->exp_key, RoundUp(p.live_limit(), kPad) * state);
    w->d_key = w->exp_key;
  } else if (p.backward) {
    arena.Take(&w->d_key, p.places() * state);
  }
  if (!p.backward || !p.bounded()) return;
  arena.Take(&w->chunk_d_key, (p.chunk / p.config.k_att + 1) * state);
  arena.Take(&w->key_scratch, 2 * state);
}

template <class T>
void TakeMemories(const Plan& p, Arena& arena, Workspace<T>* w) {
  const int64_t recalls = p.recall_slots() * p.rows;
  if (!p.recalls_all()) {
    arena.Take(&w->recalled, recalls * (p.config.k_top + 1));
    arena.Take(&w->alpha, recalls * p.config.k_top);
  }
  arena.Take(&w->normaliser, recalls);
  arena.Take(&w->memory, p.memories * p.rows * p.hidden);
  if (p.backward) {
    arena.Take(&w->d_memory, p.places() * p.rows * p.hidden);
    arena.Take(&w->touched, p.memories);
    if (p.recalls_all()) arena.Take(&w->d_score, RoundUp(p.live_limit(), kPad));
  }
  if (p.bounded()) {
    arena.Take(&w->place, p.memories * p.rows);
    arena.Take(&w->evicted, p.memories * p.rows);
    arena.Take(&w->slot_memory, p.places() * p.rows);
    arena.Take(&w->live_order, p.places() * p.rows);
    arena.Take(&w->credit, p.places() * p.rows);
  }
  if (p.has_keys()) {
    TakeKeys(p, arena, w);
    return;
  }
  arena.Take(&w->salience, p.memories * p.rows);
  if (p.backward) arena.Take(&w->d_salience, p.memories * p.rows);
  arena.Take(&w->leaders, p.rows * (p.config.k_top + 1));
  arena.Take(&w->leader_index, p.rows * (p.config.k_top + 1));
}

template <class T>
void TakeAttention(const Plan& p, Arena& arena, Workspace<T>* w) {
  const int64_t state = p.rows * p.hidden, padded = RoundUp(p.steps, kPad);
  arena.Take(&w->states, (p.steps + 1) * state);
  arena.Take(&w->contexts, p.steps * state);
  for (T** field : {&w->row_memory, &w->row_memory_panels, &w->row_key, &w->row_exp_key, &w->row_query}) {
    arena.Take(field, padded * p.hidden);
  }
  arena.Take(&w->tile_alpha, 16 * padded);
  arena.Take(&w->tile_state, 16 * p.hidden);
  if (!p.backward) return;
  arena.Take(&w->d_states, (p.steps + 1) * state);
  for (T** field : {&w->row_transposed_panels, &w->row_d_key, &w->row_d_memory}) arena.Take(field, padded * p.hidden);
  arena.Take(&w->tile_d, 16 * padded);
}

template <class T>
void TakeChunk(const Plan& p, Arena& arena, Workspace<T>* w) {
  const int64_t state = p.rows * p.hidden;
  const int64_t depth = p.chunk * p.rows;
  arena.Take(&w->hat, p.chunk * state);
  arena.Take(&w->context, p.chunk * state);
  arena.Take(&w->d_out_h, p.chunk * state);
  arena.Take(&w->d_out_s, p.chunk * state);
  arena.Take(&w->logits, depth * p.outputs);
  arena.Take(&w->x, depth * p.inputs);
  arena.Take(&w->d_h, state);
  arena.Take(&w->d_c, state);
  arena.Take(&w->d_hat, state);
  arena.Take(&w->scores, RoundUp(p.live_limit(), kPad));
  arena.Take(&w->candidates, RoundUp(p.live_limit(), kPad));
  arena.Take(&w->query, 4 * p.row_scratch());
  arena.Take(&w->ones, kPad);
  const int64_t widest = std::max(std::max(p.hidden, p.outputs), p.config.kind == Kind::kAttention ? p.steps : 0);
  arena.Take(&w->outer, kOuterDepth * (widest + 1 + p.inputs + 48));
}

}  // namespace

Plan MakePlan(const ModelConfig& config, const TaskShape& shape, int64_t rows, int64_t steps, bool backward) {
  Plan p;
  p.config = config;
  p.shape = shape;
  p.steps = steps;
  p.hidden = RoundUp(config.hidden_size, kPad);
  p.outputs = RoundUp(shape.outputs, kPad);
  p.symbols = shape.vocabulary;
  p.inputs = shape.vocabulary > 0 ? 0 : shape.inputs;
  p.backward = backward;
  if (p.recalls()) p.memories = 1 + steps / config.k_att;
  if (config.kind == Kind::kAttention) p.memories = steps;
  for (int64_t block = RowsPerBlock(rows, p.hidden); block > 0; block /= 2) {
    SetRows(block, &p);
    if (LayOutWorkspace<float>(p, nullptr).bytes <= kLargestBytes) break;
  }
  return p;
}

template <class T>
Workspace<T> LayOutWorkspace(const Plan& p, char* base) {
  Arena arena(base);
  Workspace<T> w;
  TakeSteps(p, arena, &w);
  if (p.recalls()) TakeMemories(p, arena, &w);
  if (p.config.kind == Kind::kAttention) TakeAttention(p, arena, &w);
  TakeChunk(p, arena, &w);
  w.bytes = arena.used();
  return w;
}

template <class T>
PackedNet<T> LayOutNet(const Plan& p, char* base) {
  Arena arena(base);
  PackedNet<T> n;
  const int64_t h = p.hidden, square = h * h;
  arena.Take(&n.w_hh, 4 * square);
  arena.Take(&n.w_hh_back, 4 * square);
  arena.Take(&n.input_gates, (p.inputs + p.symbols) * 4 * h);
  arena.Take(&n.bias, 4 * h);
  if (p.has_keys()) {
    for (T** field : {&n.w_m, &n.w_m_back, &n.w_q, &n.w_q_back}) arena.Take(field, square);
  }
  if (p.attends()) arena.Take(&n.score, h);
  if (p.is_separable()) arena.Take(&n.query_score, h);
  arena.Take(&n.v_h, h * p.outputs);
  arena.Take(&n.v_h_back, h * p.outputs);
  if (p.attends()) {
    arena.Take(&n.v_s, h * p.outputs);
    arena.Take(&n.v_s_back, h * p.outputs);
  }
  arena.Take(&n.out_bias, p.outputs);
  n.bytes = arena.used();
  return n;
}

template <class T>
Gradients<T> LayOutGradients(const Plan& p, T* base) {
  Arena arena(reinterpret_cast<char*>(base));
  Gradients<T> g;
  const int64_t h = p.hidden, square = h * h;
  arena.Take(&g.w_hh, 4 * square);
  arena.Take(&g.input_gates, (p.inputs + p.symbols) * 4 * h);
  arena.Take(&g.bias, 4 * h);
  if (p.has_keys()) {
    arena.Take(&g.w_m, square);
    arena.Take(&g.w_q, square);
  }
  if (p.attends()) arena.Take(&g.score, h);
  if (p.is_separable()) arena.Take(&g.query_score, h);
  arena.Take(&g.v_h, h * p.outputs);
  if (p.attends()) arena.Take(&g.v_s, h * p.outputs);
  arena.Take(&g.out_bias, p.outputs);
  g.base = base;
  g.count = static_cast<int64_t>(arena.used() / sizeof(T));
  return g;
}

template Workspace<float> LayOutWorkspace<float>(const Plan&, char*);
template Workspace<double> LayOutWorkspace<double>(const Plan&, char*);
template PackedNet<float> LayOutNet<float>(const Plan&, char*);
template PackedNet<double> LayOutNet<double>(const Plan&, char*);
template Gradients<float> LayOutGradients<float>(const Plan&, float*);
template Gradients<double> LayOutGradients<double>(const Plan&, double*);

}  // namespace sab::model::fast
