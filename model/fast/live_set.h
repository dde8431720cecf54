#pragma once

#include "model/fast/block.h"

// Which memories a row still holds, and where.
//
// Unbounded, memory i is in place i for ever. Bounded, the keys and gradients of what is live share S places: a new
// memory takes the place of the one that it displaces. Every write is logged, so that going backward each one can be
// taken back: at step t of the way back the places hold what they held at step t forward.
namespace sab::model::fast::SAB_ISA {

template <class T>
class LiveSet {
 public:
  explicit LiveSet(const Block<T>& block) : b_(block), w_(block.work), rows_(block.rows()) {}

  // m_1 alone.
  void Reset() {
    if (!bounded()) return;
    for (int64_t r = 0; r < rows_; ++r) {
      w_.place[r] = 0;
      w_.slot_memory[r * places()] = 0;
      w_.live_order[r * places()] = 0;
      w_.credit[r * places()] = 0;
    }
  }

  bool bounded() const { return b_.plan.bounded(); }
  int64_t places() const { return (b_.plan.live_limit() + 15) / 16 * 16; }

  // Of memory i; -1: it was not kept.
  int64_t PlaceOf(int64_t i, int64_t row) const { return bounded() ? w_.place[i * rows_ + row] : i; }
  int64_t MemoryIn(int64_t place, int64_t row) const {
    return bounded() ? w_.slot_memory[row * places() + place] : place;
  }
  // The n-th in the order of writing.
  int64_t Nth(int64_t n, int64_t row) const { return bounded() ? w_.live_order[row * places() + n] : n; }

  // Adds the weight with which memory i was recalled; policy salient goes by it.
  void Credit(int64_t i, int64_t row, T alpha) const {
    if (bounded()) w_.credit[row * places() + PlaceOf(i, row)] += alpha;
  }

  // Takes memory i in for the first time. Returns the one that left, i itself if it is not kept, or -1.
  int64_t Write(int64_t i, int64_t row) {
    if (!bounded()) return -1;
    const int64_t place = i < b_.plan.config.memory_capacity ? i : Leaving(i, row);
    int32_t* const evicted = w_.evicted + i * rows_ + row;
    w_.place[i * rows_ + row] = static_cast<int32_t>(place);
    *evicted = static_cast<int32_t>(place < 0 ? i : i < b_.plan.config.memory_capacity ? -1 : MemoryIn(place, row));
    if (place >= 0) w_.credit[row * places() + place] = 0;
    Again(i, row);
    return *evicted;
  }

  // Takes the write of memory i back, the last one that is in force. Returns the memory that is live again, or -1.
  int64_t TakeBack(int64_t i, int64_t row) {
    const int64_t place = PlaceOf(i, row), back = w_.evicted[i * rows_ + row];
    if (place < 0 || back < 0) return -1;
    w_.slot_memory[row * places() + place] = static_cast<int32_t>(back);
    int32_t* const order = w_.live_order + row * places();
    int64_t n = b_.plan.config.memory_capacity - 1;  // the last is i
    for (; order[n - 1] > back; --n) order[n] = order[n - 1];
    order[n] = static_cast<int32_t>(back);
    return back;
  }

  // A logged write once more.
  void Again(int64_t i, int64_t row) {
    const int64_t place = PlaceOf(i, row), evicted = w_.evicted[i * rows_ + row];
    if (place < 0) return;
    w_.slot_memory[row * places() + place] = static_cast<int32_t>(i);
    int32_t* const order = w_.live_order + row * places();
    int64_t n = i;
    if (evicted >= 0) {
      for (n = 0; order[n] != evicted; ++n) {
      }
      for (; n + 1 < b_.plan.config.memory_capacity; ++n) order[n] = order[n + 1];
    }
    order[n] = static_cast<int32_t>(i);
  }

 private:
  // The place that memory i gets in a full set; -1: it is not kept.
  int64_t Leaving(int64_t i, int64_t row) const {
    const ModelConfig& c = b_.plan.config;
    const int64_t capacity = c.memory_capacity;
    const int32_t* memory = w_.slot_memory + row * places();
    const double* credit = w_.credit + row * places();
    const bool salient = c.memory_policy == MemoryPolicy::kSalient;
    const int64_t kept = Smaller(c.memory_recent, capacity - 1);
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

  const Block<T>& b_;
  const Workspace<T>& w_;
  const int64_t rows_;
};

}  // namespace sab::model::fast::SAB_ISA
