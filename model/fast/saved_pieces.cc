#include "model/fast/saved_pieces.h"

#include <algorithm>
#include <utility>

namespace sab::model::fast {
namespace {

class Pieces {
 public:
  template <class Element>
  void Add(Element* data, int64_t first, int64_t count) {
    if (data != nullptr && count > 0) all_.push_back({data + first, static_cast<size_t>(count) * sizeof(Element)});
  }
  template <class Element>
  void Add(Element* data, int64_t count) {
    Add(data, 0, count);
  }
  std::vector<SavedPiece> Take() { return std::move(all_); }

 private:
  std::vector<SavedPiece> all_;
};

// Memories written in the first `chunks` chunks, m_1 included.
int64_t WrittenIn(const Plan& plan, int64_t chunks) {
  return 1 + std::min(chunks * plan.chunk, plan.steps) / plan.config.k_att;
}

// Where the bounded set of memories stands.
template <class T>
void AddLiveSet(const BlockMemory<T>& b, Pieces* pieces) {
  if (!b.plan.bounded()) return;
  const int64_t places = b.plan.places() * b.rows;
  pieces->Add(b.work.slot_memory, places);
  pieces->Add(b.work.live_order, places);
  if (b.plan.has_keys()) pieces->Add(b.work.key, places * b.plan.hidden);
}

template <class T>
void AddForward(const BlockMemory<T>& b, const Place& place, Pieces* pieces) {
  const Plan& p = b.plan;
  const int64_t state = b.rows * p.hidden;
  const int64_t present = (p.slots() == p.steps ? place.forward * p.chunk : p.chunk) * state;
  pieces->Add(b.work.h, present, state);
  pieces->Add(b.work.c, present, state);
  if (!p.recalls()) return;
  AddLiveSet(b, pieces);
  if (p.bounded()) pieces->Add(b.work.credit, p.places() * b.rows);
  if (!p.has_keys()) {
    pieces->Add(b.work.leaders, b.rows * (p.config.k_top + 1));
    pieces->Add(b.work.leader_index, b.rows * (p.config.k_top + 1));
    return;
  }
  pieces->Add(b.work.key_limit, b.rows);
  const int64_t row = (p.live_limit() + kPad - 1) / kPad * kPad * p.hidden;
  const int64_t used = std::min(row, (place.written + kPad - 1) / kPad * kPad * p.hidden);
  for (int64_t r = 0; r < b.rows; ++r) pieces->Add(b.work.exp_key, r * row, used);
}

template <class T>
void AddBackward(const BlockMemory<T>& b, const Place& place, Pieces* pieces) {
  const Plan& p = b.plan;
  const int64_t state = b.rows * p.hidden;
  pieces->Add(b.gradients, b.gradient_count);
  pieces->Add(b.work.d_h, state);
  pieces->Add(b.work.d_c, state);
  if (!p.recalls()) return;
  AddLiveSet(b, pieces);
  const int64_t memories = WrittenIn(p, place.left);
  const int64_t places = p.bounded() ? p.places() : memories;
  pieces->Add(b.work.touched, memories);
  pieces->Add(b.work.d_memory, places * state);
  pieces->Add(b.work.d_key, places * state);
  pieces->Add(b.work.d_salience, memories * b.rows);
}

}  // namespace

template <class T>
std::vector<SavedPiece> GrownPieces(const BlockMemory<T>& b, int64_t from, int64_t to) {
  const Plan& p = b.plan;
  const Workspace<T>& w = b.work;
  const int64_t state = b.rows * p.hidden;
  Pieces pieces;
  pieces.Add(w.starts, from * 2 * state, (to - from) * 2 * state);
  for (int64_t chunk = from; w.starts == nullptr && chunk < to; ++chunk) {
    pieces.Add(w.h, chunk * p.chunk * state, state);
    pieces.Add(w.c, chunk * p.chunk * state, state);
  }
  if (!p.recalls()) return pieces.Take();
  const int64_t first = from * p.chunk * b.rows, steps = std::min(to * p.chunk, p.steps) * b.rows - first;
  pieces.Add(w.recalled, first * (p.config.k_top + 1), steps * (p.config.k_top + 1));
  pieces.Add(w.alpha, first * p.config.k_top, steps * p.config.k_top);
  pieces.Add(w.normaliser, first, steps);
  const int64_t memory = WrittenIn(p, from), memories = WrittenIn(p, to) - memory;
  pieces.Add(w.memory, memory * state, memories * state);
  if (!p.bounded()) pieces.Add(w.key, memory * state, memories * state);
  for (int32_t* indices : {w.place, w.evicted}) pieces.Add(indices, memory * b.rows, memories * b.rows);
  pieces.Add(w.salience, memory * b.rows, memories * b.rows);
  return pieces.Take();
}

template <class T>
std::vector<SavedPiece> RestPieces(const BlockMemory<T>& b, const Place& place) {
  Pieces pieces;
  pieces.Add(b.sums, 1);
  if (place.left < 0) {
    AddForward(b, place, &pieces);
  } else {
    AddBackward(b, place, &pieces);
  }
  return pieces.Take();
}

template std::vector<SavedPiece> GrownPieces(const BlockMemory<float>&, int64_t, int64_t);
template std::vector<SavedPiece> GrownPieces(const BlockMemory<double>&, int64_t, int64_t);
template std::vector<SavedPiece> RestPieces(const BlockMemory<float>&, const Place&);
template std::vector<SavedPiece> RestPieces(const BlockMemory<double>&, const Place&);

}  // namespace sab::model::fast
