// The part of a round that keeps slots for the first job that cannot start: when they come free, and who must leave for
// it.
#include <algorithm>

#include "server/scheduling/round.h"

namespace sab::server {
namespace {

constexpr size_t kMostNamed = 8;

}  // namespace

Round::Outlook Round::Foresee(bool cuda, int64_t memory, int64_t need) const {
  struct Source {
    const SlotClass* slots;
    const SlotClass::End* next;
    const SlotClass::End* end;
  };
  Outlook outlook;
  Rooms rooms(*cluster_, memory);
  std::vector<Source> sources;
  for (const auto& [key, slots] : cluster_->classes()) {
    if (!Serves(slots, cuda, memory)) continue;
    outlook.leaving += slots.LeavingFor(memory);
    if (!slots.ends.empty()) sources.push_back({&slots, slots.ends.data(), slots.ends.data() + slots.ends.size()});
  }
  std::vector<const Taken*> started;  // in this round
  for (const Taken& taken : taken_) {
    if (!Serves(*taken.slots, cuda, memory)) continue;
    outlook.leaving += AddTaken(taken, -1, &rooms);
    started.push_back(&taken);
  }
  std::stable_sort(started.begin(), started.end(), [](const Taken* a, const Taken* b) { return a->end < b->end; });
  auto starter = started.begin();
  int64_t sum = outlook.leaving;
  absl::Duration at = now_;
  while (true) {
    Source* soonest = nullptr;
    for (Source& source : sources) {
      if (source.next != source.end && (soonest == nullptr || source.next->end < soonest->next->end)) soonest = &source;
    }
    absl::Duration next = soonest == nullptr ? absl::InfiniteDuration() : soonest->next->end;
    if (starter != started.end() && (soonest == nullptr || (*starter)->end < next)) {
      soonest = nullptr;
      next = (*starter)->end;
    }
    const bool none = next == absl::InfiniteDuration();
    // What ends at the same moment counts too.
    if (sum >= need && (none || next > at)) break;
    if (none) return outlook;
    at = std::max(at, next);
    int64_t gain = 0;
    if (soonest == nullptr) {
      gain = AddTaken(**starter++, 1, &rooms);
    } else {
      const SlotClass::End& end = *soonest->next++;
      gain = Gain(*soonest->slots, *end.job, end.count, 1, &rooms);
      if (gain > 0 && outlook.must_end.size() < kMostNamed) outlook.must_end.push_back(end.job->view.job);
    }
    sum += gain;
    if (at == now_) outlook.leaving += gain;
  }
  outlook.at = at;
  outlook.spare = sum - need;
  return outlook;
}

void Round::Reserve(ActiveQueue& queue, Shape& shape, Wait* wait) {
  const WaitingJob& job = *wait->job;
  const int64_t need = job.request.least();
  const Outlook outlook = Foresee(shape.cuda, shape.memory, need);
  Reservation& kept = shape.kept = {&job, outlook.at, outlook.spare, shape.cuda ? 0 : shape.memory};
  if (!shape.cuda) cpu_turn_ = static_cast<size_t>(&shape - shapes_.data());
  // Nobody of its own queue may use up the quota that it will need.
  queue.in_use[shape.cuda] += need;
  if (wait->behind == nullptr) wait->kind = WaitKind::kSlots;
  if (wait->behind != nullptr || outlook.at <= now_) return;
  wait->kind = MakeRoom(job, shape, need - outlook.leaving);
  if (wait->kind == WaitKind::kSlots) return;
  kept.at = now_;
  kept.spare = 0;
}

// For the job that has its turn: of elastic jobs what they can spare; where that does not do, jobs that leave beside;
// where both do not, jobs that leave alone. Nothing where that would not do either.
WaitKind Round::MakeRoom(const WaitingJob& job, const Shape& shape, int64_t missing) {
  for (const bool with_shrinks : {true, false}) {
    Room most = cluster_->MostToPreempt(shape.cuda, job.priority);
    if (with_shrinks) {
      const Room spare = cluster_->MostToSpare(shape.cuda, job.priority);
      if (spare.slots == 0) continue;
      most += spare;
    }
    // A slot with its memory makes room for one rank more, or for as many as the memory holds and one in the rest.
    const bool by_bytes = !shape.cuda && shape.memory > 0;
    if ((by_bytes ? 2 * most.slots + most.bytes / shape.memory : most.slots) < missing) continue;
    Rooms rooms(*cluster_, shape.memory);
    if (!shape.cuda) AddEnded(shape, &rooms);
    Missing left{.slots = missing};
    std::vector<Giving> givings;
    if (with_shrinks) givings = FindSpares(job, shape, nullptr, &left, &rooms);
    if (with_shrinks && givings.empty()) continue;
    for (const Giving& giving : givings) shrinking_.insert(giving.job);
    std::vector<JobId> victims;
    if (left.any()) victims = FindVictims(job, shape, left.slots, &rooms);
    if (left.any() && victims.empty()) {
      for (const Giving& giving : givings) shrinking_.erase(giving.job);
      continue;
    }
    for (const Giving& giving : givings) GiveBack(giving, job.job);
    for (const JobId& victim : victims) {
      leaving_.insert(victim);
      decision_.preemptions.push_back({victim, job.job});
    }
    return victims.empty() ? WaitKind::kShrinking : WaitKind::kPreempting;
  }
  return WaitKind::kSlots;
}

// Of lower priority, as few and as little as do: the lowest priority and the latest start first. None when all together
// would not do.
std::vector<JobId> Round::FindVictims(const WaitingJob& job, const Shape& shape, int64_t missing, Rooms* rooms) {
  // What the victim's leaving gains; with sign -1, what its staying costs.
  const auto gain_of = [&](const ClusterJob& victim, int64_t sign) {
    int64_t gain = 0;
    for (const auto& [slots, number] : victim.counted) {
      if (Serves(*slots, shape.cuda, shape.memory)) gain += Gain(*slots, victim, number, sign, rooms);
    }
    return gain;
  };
  std::vector<const ClusterJob*> chosen;
  for (const ClusterJob* running : cluster_->victims()) {
    const RunningJob& victim = running->view;
    if (victim.priority >= job.priority || missing <= 0) break;
    if (now_ - victim.start < options_.min_run_time || IsLeaving(victim.job) || shrinking_.contains(running)) continue;
    missing -= gain_of(*running, 1);
    chosen.push_back(running);
  }
  std::vector<JobId> victims;
  if (missing > 0) return victims;
  // Those of the highest priority are spared first.
  for (auto it = chosen.rbegin(); it != chosen.rend(); ++it) {
    const int64_t cost = -gain_of(**it, -1);
    if (missing + cost <= 0) {
      missing += cost;
    } else {
      gain_of(**it, 1);
      victims.push_back((*it)->view.job);
    }
  }
  return victims;
}

}  // namespace sab::server
