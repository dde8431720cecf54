// The part of a round that takes ranks from elastic jobs, which go on with the others, for the job that has its turn.
#include <algorithm>

#include "server/scheduling/round.h"

namespace sab::server {

// By how many slots, or ranks of the size of `rooms`, it raises what is free; with sign -1, what taking it back costs.
int64_t Round::GainOf(const Shrink& shrink, int64_t sign, Rooms* rooms) const {
  const int64_t memory = cluster_->FindRunning(shrink.job)->view.memory;
  int64_t gain = 0;
  for (const RankPlacement& place : shrink.given) {
    const ClusterWorker& worker = *cluster_->FindWorker(place.worker);
    const SlotClass& slots = *cluster_->ClassOfSlot(worker, place.slot);
    gain += slots.LevelOf(rooms->memory()) == nullptr ? sign : rooms->Add(worker, {sign, sign * memory});
  }
  return gain;
}

// Of jobs of no higher priority, the lowest and the latest start first, ranks of the highest number first, until
// nothing is missing or there are no more.
std::vector<Shrink> Round::FindShrinks(const WaitingJob& job, const Shape& shape, int64_t* missing,
                                       Rooms* rooms) const {
  std::vector<Shrink> shrinks;
  for (const ClusterJob* running : cluster_->spare_jobs()) {
    const RunningJob& view = running->view;
    if (view.priority > job.priority || *missing <= 0) break;
    if (view.cuda != shape.cuda || now_ < view.may_resize || IsLeaving(view.job) || IsShrinking(view.job)) continue;
    std::vector<RankPlacement> useful;
    for (auto place = view.placements.rbegin(); place != view.placements.rend(); ++place) {
      const ClusterWorker* worker = cluster_->FindWorker(place->worker);
      const SlotClass* slots = worker == nullptr ? nullptr : cluster_->ClassOfSlot(*worker, place->slot);
      if (slots != nullptr && Serves(*slots, shape.cuda, shape.memory)) useful.push_back(*place);
    }
    Shrink shrink{.job = view.job, .by = job.job, .given = {}};
    const int64_t least = std::max(view.request.least(), view.ranks() - static_cast<int64_t>(useful.size()));
    for (int64_t keep = view.ranks() - 1; keep >= least && *missing > 0; --keep) {
      if (view.request.MostOf(keep) != keep) continue;
      Shrink more = shrink;
      more.given.assign(useful.begin() + static_cast<std::ptrdiff_t>(shrink.given.size()),
                        useful.begin() + static_cast<std::ptrdiff_t>(view.ranks() - keep));
      *missing -= GainOf(more, 1, rooms);
      shrink.given.insert(shrink.given.end(), more.given.begin(), more.given.end());
    }
    if (!shrink.given.empty()) shrinks.push_back(std::move(shrink));
  }
  // The later ones may make the earlier needless.
  for (size_t i = shrinks.size(); *missing <= 0 && i-- > 0;) {
    const int64_t cost = -GainOf(shrinks[i], -1, rooms);
    if (*missing + cost <= 0) {
      *missing += cost;
      shrinks.erase(shrinks.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      GainOf(shrinks[i], 1, rooms);
    }
  }
  return shrinks;
}

bool Round::IsShrinking(const JobId& job) const {
  return std::any_of(decision_.shrinks.begin(), decision_.shrinks.end(),
                     [&](const Shrink& shrink) { return shrink.job == job; });
}

void Round::GiveBack(const Shrink& shrink) {
  const int64_t memory = cluster_->FindRunning(shrink.job)->view.memory;
  for (const RankPlacement& place : shrink.given) {
    const ClusterWorker* worker = cluster_->FindWorker(place.worker);
    given_[worker] += {1, memory};
    slack_.erase(worker);
  }
  decision_.shrinks.push_back(shrink);
}

}  // namespace sab::server
