#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "sab/v1/metric_service.pb.h"

namespace sab::agent {

// Figures of one trainer that wait for the coordinator. Bounded: when it is full the oldest figures of training go;
// figures of evaluation are never dropped (they are few). Not thread-safe.
class MetricBuffer {
 public:
  explicit MetricBuffer(size_t capacity) : capacity_(capacity) {}

  // Returns how many figures were dropped for it.
  int64_t Add(v1::MetricPoint point);
  // The oldest `most`, in order of arrival.
  std::vector<v1::MetricPoint> Take(size_t most);
  bool empty() const { return eval_.empty() && other_.empty(); }
  size_t size() const { return eval_.size() + other_.size(); }

 private:
  using Queue = std::deque<std::pair<int64_t, v1::MetricPoint>>;  // with its number of arrival
  const size_t capacity_;
  int64_t arrivals_ = 0;
  Queue eval_;
  Queue other_;
};

}  // namespace sab::agent
