// The part of the cluster that knows queues: what they have used, and whose share is how large.
#include <algorithm>
#include <cmath>

#include "server/scheduling/cluster.h"

namespace sab::server {

ClusterQueue* Cluster::QueueOf(const std::string& name) {
  auto [it, added] = queues_.try_emplace(name);
  if (added) it->second.config.name = name;
  return &it->second;
}

void Cluster::PutQueue(const QueueConfig& config, absl::Duration now) {
  ClusterQueue* queue = QueueOf(config.name);
  queue->config = config;
  Settle(*queue, now);
}

double Cluster::Decayed(const ClusterQueue& queue, bool cuda, absl::Duration now) const {
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - queue.settled));
  const double half_life = absl::ToDoubleSeconds(options_.half_life);
  const double kept = std::exp2(-seconds / half_life);
  return queue.usage[cuda] * kept + static_cast<double>(queue.in_use[cuda]) * half_life / std::log(2.0) * (1 - kept);
}

void Cluster::Settle(ClusterQueue& queue, absl::Duration now) const {
  queue.usage = {Decayed(queue, false, now), Decayed(queue, true, now)};
  queue.settled = std::max(queue.settled, now);
}

void Cluster::AddUse(const std::string& queue, const PastUse& use, absl::Duration now) {
  ClusterQueue* entry = QueueOf(queue);
  Settle(*entry, now);
  const double half_life = absl::ToDoubleSeconds(options_.half_life);
  const auto kept_since = [&](absl::Duration then) {
    return std::exp2(-absl::ToDoubleSeconds(now - then) / half_life);
  };
  entry->usage[use.cuda] +=
      static_cast<double>(use.slots) * half_life / std::log(2.0) * (kept_since(use.until) - kept_since(use.from));
}

double Cluster::AverageUse(const ClusterQueue& queue, bool cuda, absl::Duration now) const {
  return Decayed(queue, cuda, now) * std::log(2.0) / absl::ToDoubleSeconds(options_.half_life);
}

double Cluster::Share(const ClusterQueue& queue, absl::Duration now) const {
  double share = 0;
  for (int cuda = 0; cuda < 2; ++cuda) {
    const double total = static_cast<double>(std::max<int64_t>(1, Total(cuda != 0)));
    share = std::max(share, AverageUse(queue, cuda != 0, now) / total);
  }
  return share / queue.config.weight;
}

double Cluster::StartShare(const ClusterQueue& queue, bool cuda, int64_t slots) const {
  const double charge = static_cast<double>(slots) * absl::ToDoubleSeconds(options_.start_charge) * std::log(2.0) /
                        absl::ToDoubleSeconds(options_.half_life);
  return charge / static_cast<double>(std::max<int64_t>(1, Total(cuda))) / queue.config.weight;
}

}  // namespace sab::server
