#pragma once

#include <cstdint>

// Successive halving, as those who submit a sweep and those who decide in it must agree on it.
namespace sab::spec {

inline constexpr int64_t kHalvingFactor = 3;  // unless the spec says otherwise

// How many of `trials` go on at the rung with this index (from 0), if so many can: one of `factor`, rounded up, at
// each.
inline int64_t PlacesAt(int64_t trials, int64_t factor, int rung) {
  int64_t places = trials;
  for (int i = 0; i <= rung && places > 1; ++i) places = (places - 1) / factor + 1;
  return places;
}

}  // namespace sab::spec
