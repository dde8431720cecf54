#include "model/fast/block_sum.h"

#include <cmath>

namespace sab::model::fast {
namespace {

PassSums ToPassSums(const BlockSums& s) {
  return {s.loss_sum,
          s.loss_count,
          s.scored_loss_sum,
          s.scored_count,
          s.correct_count,
          s.guarded_count,
          std::sqrt(s.max_hidden_square)};
}

}  // namespace

template <class T>
bool BlockSum<T>::Add(int64_t block, const T* part, const BlockSums& sums) {
  std::unique_lock<std::mutex> lock(mutex_);
  turn_.wait(lock, [&] { return done_ == block || left_; });
  if (done_ != block) return false;
  for (int64_t i = 0; i < count_; ++i) total_[i] += part[i];
  sums_ += ToPassSums(sums);
  ++done_;
  turn_.notify_all();
  return true;
}

template <class T>
void BlockSum<T>::Leave() {
  const std::lock_guard<std::mutex> lock(mutex_);
  left_ = true;
  turn_.notify_all();
}

template <class T>
bool BlockSum<T>::left() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return left_;
}

template <class T>
int64_t BlockSum<T>::done() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return done_;
}

template <class T>
PassSums BlockSum<T>::sums() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return sums_;
}

template <class T>
SavePoints::Block BlockSum<T>::Described(const Identity& identity) {
  return {SavePoints::kSum, identity(), nullptr, [this](const SavePoints::Numbers&) {
            return std::vector<SavedPiece>{{total_, static_cast<size_t>(count_) * sizeof(T)}, {&sums_, sizeof(sums_)}};
          }};
}

template <class T>
void BlockSum<T>::Save(SavePoints& points, const Identity& identity) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (done_ == kept_) return;
  points.Save(-1, Described(identity), {{done_}, 0, 1, "blocks done: " + std::to_string(done_)});
  kept_ = done_;
}

template <class T>
void BlockSum<T>::Load(SavePoints& points, const Identity& identity) {
  if (!points.Has(SavePoints::kSum)) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const SavePoints::Numbers cursor = points.Load(Described(identity));
  if (cursor.empty()) return;
  done_ = kept_ = cursor.at(0);
}

template class BlockSum<float>;
template class BlockSum<double>;

}  // namespace sab::model::fast
