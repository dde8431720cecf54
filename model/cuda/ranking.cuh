#pragma once

#include "model/cuda/device.h"

// The best of many by (score descending, index ascending), held by one warp.
namespace sab::model::cuda {

inline constexpr int32_t kNoIndex = 0x7fffffff;

template <class T>
SAB_DEVICE T Infinity() {
  return static_cast<T>(INFINITY);
}

// Lane i holds the i-th best of what was offered; lanes from `width` on hold what fell off. All lanes call together.
template <class T>
class Ranking {
 public:
  SAB_DEVICE explicit Ranking(int width) : width_(width), score_(-Infinity<T>()), index_(kNoIndex) {}
  SAB_DEVICE Ranking(int width, T score, int32_t index) : width_(width), score_(score), index_(index) {}

  SAB_DEVICE T score() const { return score_; }
  SAB_DEVICE int32_t index() const { return index_; }

  // Whether it is among the best now; the same answer on every lane. A NaN must not hide: it wins, and what is made of
  // it becomes NaN.
  SAB_DEVICE bool Offer(T score, int32_t index) {
    if (!(score == score)) score = Infinity<T>();
    const bool stays = score_ > score || (score_ == score && index_ < index);
    const int place = CountOnes(Ballot(stays && Lane() < width_));
    if (place >= width_) return false;
    const T score_before = ShuffleUp(score_);
    const int32_t index_before = ShuffleUp(index_);
    if (Lane() == place) {
      score_ = score;
      index_ = index;
    } else if (Lane() > place) {
      score_ = score_before;
      index_ = index_before;
    }
    return true;
  }

 private:
  const int width_;
  T score_;
  int32_t index_;
};

}  // namespace sab::model::cuda
