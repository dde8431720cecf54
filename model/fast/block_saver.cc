#include "model/fast/block_saver.h"

#include <algorithm>

namespace sab::model::fast {
namespace {

SavePoints::Numbers ToNumbers(const Place& place) {
  return {place.forward, place.left, place.written, place.live ? 1 : 0};
}

Place ToPlace(const SavePoints::Numbers& numbers) {
  return {numbers.at(0), numbers.at(1), numbers.at(2), numbers.at(3) != 0};
}

}  // namespace

template <class T>
BlockSaver<T>::BlockSaver(const Pass& pass, int member, int64_t block, const BlockMemory<T>& memory)
    : pass_(pass),
      member_(member),
      block_(block),
      memory_(memory),
      pauses_{this, [](void* self, Place* place) { return static_cast<const BlockSaver*>(self)->Resume(place); },
              [](void* self, const Place& place) { return static_cast<const BlockSaver*>(self)->Between(place); }} {}

template <class T>
SavePoints::Block BlockSaver<T>::Described() const {
  return {block_, pass_.identity(), [this](int64_t from, int64_t to) { return GrownPieces(memory_, from, to); },
          [this](const SavePoints::Numbers& cursor) { return RestPieces(memory_, ToPlace(cursor)); }};
}

template <class T>
bool BlockSaver<T>::Resume(Place* place) const {
  if (!pass_.points.Has(block_)) return false;
  const SavePoints::Numbers cursor = pass_.points.Load(Described());
  if (cursor.empty()) return false;
  *place = ToPlace(cursor);
  return true;
}

template <class T>
bool BlockSaver<T>::Between(const Place& place) const {
  const bool stops = pass_.points.stopping();
  if (pass_.points.Due(member_)) {
    pass_.save_sum();
    pass_.points.Save(member_, Described(), PositionOf(place));
  }
  return !stops;
}

template <class T>
void BlockSaver<T>::KeepDone() const {
  const Place end = {memory_.plan.chunks(), 0, 1, false};
  if (pass_.points.Due(member_)) pass_.points.Save(member_, Described(), PositionOf(end));
}

// A step back takes about twice as long as one forward.
template <class T>
SavePoints::Position BlockSaver<T>::PositionOf(const Place& place) const {
  const Plan& p = memory_.plan;
  const bool back = place.left >= 0;
  const int64_t chunks = back ? place.left : place.forward;
  const double share = static_cast<double>(chunks) / static_cast<double>(p.chunks());
  return {ToNumbers(place), place.forward, back ? 1 - 2 * share / 3 : share / 3,
          (back ? "going backward at step " : "going forward at step ") +
              std::to_string(std::min(chunks * p.chunk, p.steps)) + " of " + std::to_string(p.steps)};
}

template class BlockSaver<float>;
template class BlockSaver<double>;

}  // namespace sab::model::fast
