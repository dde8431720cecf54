// The part of a round that takes ranks from elastic jobs, which go on with the others, for the job that has its turn
// and for the first that waits for its queue's quota.
#include <algorithm>

#include "server/scheduling/round.h"

namespace sab::server {

// By how many slots, or ranks of the size of `rooms`, it raises what is free when those from the `first` on come free;
// with sign -1, what taking them back costs.
int64_t Round::GainOf(const Giving& giving, size_t first, int64_t sign, Rooms* rooms) const {
  const int64_t memory = giving.job->view.memory;
  int64_t gain = 0;
  for (size_t i = first; i < giving.slots.size(); ++i) {
    const Giving::Slot& slot = giving.slots[i];
    gain += slot.of->LevelOf(rooms->memory()) == nullptr ? sign : rooms->Add(*slot.worker, {sign, sign * memory});
  }
  return gain;
}

// Ranks of the highest number first, down to a number that the job may have, until nothing is missing.
Round::Giving Round::FindSpare(const ClusterJob& job, const Shape& shape, Missing* missing, Rooms* rooms) const {
  const RunningJob& view = job.view;
  Giving giving{.job = &job, .slots = {}};
  size_t counted = 0;
  const ClusterWorker* worker = nullptr;
  for (auto place = view.placements.rbegin(); place != view.placements.rend() && missing->any(); ++place) {
    const int64_t keep = view.ranks() - static_cast<int64_t>(giving.slots.size()) - 1;
    if (keep < view.request.least()) break;
    if (worker == nullptr || worker->view.id != place->worker) worker = cluster_->FindWorker(place->worker);
    const SlotClass* slots = worker == nullptr ? nullptr : cluster_->ClassOfSlot(*worker, place->slot);
    if (slots == nullptr || !Serves(*slots, shape.cuda, shape.memory)) continue;
    giving.slots.push_back({worker, slots, place->slot});
    if (view.request.MostOf(keep) != keep) continue;
    missing->slots -= GainOf(giving, counted, 1, rooms);
    missing->ranks -= static_cast<int64_t>(giving.slots.size() - counted);
    counted = giving.slots.size();
  }
  giving.slots.resize(counted);
  return giving;
}

// Of jobs of no higher priority, and of this queue where one is given, the lowest and the latest start first, until
// nothing is missing or there are no more.
std::vector<Round::Giving> Round::FindSpares(const WaitingJob& job, const Shape& shape, const ClusterQueue* of,
                                             Missing* missing, Rooms* rooms) const {
  std::vector<Giving> all;
  for (const ClusterJob* running : cluster_->spare_jobs()) {
    const RunningJob& view = running->view;
    if (view.priority > job.priority || !missing->any()) break;
    if (of != nullptr && running->queue != of) continue;
    if (view.cuda != shape.cuda || now_ < view.may_resize || IsLeaving(view.job) || shrinking_.contains(running))
      continue;
    Giving giving = FindSpare(*running, shape, missing, rooms);
    if (!giving.slots.empty()) all.push_back(std::move(giving));
  }
  // The later ones may make the earlier needless.
  for (size_t i = all.size(); !missing->any() && i-- > 0;) {
    const Missing without{.slots = missing->slots - GainOf(all[i], 0, -1, rooms),
                          .ranks = missing->ranks + static_cast<int64_t>(all[i].slots.size())};
    if (!without.any()) {
      *missing = without;
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      GainOf(all[i], 0, 1, rooms);
    }
  }
  return all;
}

// For the first job that waits for its queue's quota: elastic jobs of the queue give up what they have above their
// fewest, where it can start with that. Not while a job before it has its turn at the slots.
WaitKind Round::MakeQuota(const ActiveQueue& queue, const WaitingJob& job, const Shape& shape) {
  const int64_t need = job.request.least();
  Missing missing{.ranks = queue.in_use[shape.cuda] + need - *queue.queue->config.quota[shape.cuda]};
  if (queue.queue->lent[shape.cuda] < missing.ranks || TurnOf(shape).kept.job != nullptr) return WaitKind::kQuota;
  missing.slots = need - Foresee(shape.cuda, shape.memory, 0).leaving;
  Rooms rooms(*cluster_, shape.memory);
  if (!shape.cuda) AddEnded(shape, &rooms);
  const std::vector<Giving> givings = FindSpares(job, shape, queue.queue, &missing, &rooms);
  if (missing.any()) return WaitKind::kQuota;
  for (const Giving& giving : givings) {
    shrinking_.insert(giving.job);
    GiveBack(giving, job.job);
  }
  return WaitKind::kQuotaGiven;
}

void Round::GiveBack(const Giving& giving, const JobId& by) {
  Shrink shrink{.job = giving.job->view.job, .by = by, .given = {}};
  for (const Giving::Slot& slot : giving.slots) {
    shrink.given.push_back({slot.worker->view.id, slot.slot});
    given_[slot.worker] += {1, giving.job->view.memory};
    slack_.erase(slot.worker);
  }
  decision_.shrinks.push_back(std::move(shrink));
}

}  // namespace sab::server
