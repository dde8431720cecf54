#include "worker/agent/metric_buffer.h"

namespace sab::agent {

int64_t MetricBuffer::Add(v1::MetricPoint point) {
  Queue& queue = point.split() == "eval" ? eval_ : other_;
  queue.emplace_back(arrivals_++, std::move(point));
  if (size() <= capacity_ || other_.empty()) return 0;
  other_.pop_front();
  return 1;
}

std::vector<v1::MetricPoint> MetricBuffer::Take(size_t most) {
  std::vector<v1::MetricPoint> points;
  while (points.size() < most && !empty()) {
    const bool from_eval = other_.empty() || (!eval_.empty() && eval_.front().first < other_.front().first);
    Queue& queue = from_eval ? eval_ : other_;
    points.push_back(std::move(queue.front().second));
    queue.pop_front();
  }
  return points;
}

}  // namespace sab::agent
