// The part of a round that knows how CPU ranks share their worker's memory. A reservation there is exact: what counts
// is by how many ranks a start would reduce what the worker has room for when the kept slots are needed.
#include <algorithm>

#include "server/scheduling/round.h"

namespace sab::server {

int64_t Round::Rooms::Add(const ClusterWorker& worker, const Room& change) {
  if (rooms_.empty()) {
    rooms_.resize(cluster_.worker_indices());
    known_.resize(cluster_.worker_indices());
  }
  Room& room = rooms_[worker.index];
  if (!known_[worker.index]) room = worker.leaving();
  known_[worker.index] = true;
  const int64_t before = room.Ranks(memory_);
  room += change;
  return room.Ranks(memory_) - before;
}

int64_t Round::Rooms::AddJob(const ClusterJob& job, const SlotClass& slots, int64_t sign) {
  int64_t change = 0;
  for (const auto& [worker, count] : job.cpus) {
    if (worker->cpu == &slots) change += Add(*worker, {sign * count, sign * count * job.view.memory});
  }
  return change;
}

// By how many slots, or ranks of the size of `rooms`, it raises what is free when `count` slots of the job come free.
int64_t Round::Gain(const SlotClass& slots, const ClusterJob& job, int64_t count, int64_t sign, Rooms* rooms) const {
  return slots.LevelOf(rooms->memory()) == nullptr ? sign * count : rooms->AddJob(job, slots, sign);
}

int64_t Round::AddTaken(const Taken& taken, int64_t sign, Rooms* rooms) const {
  const int64_t count = sign * static_cast<int64_t>(taken.indices.size());
  if (taken.slots->LevelOf(rooms->memory()) == nullptr) return count;
  return rooms->Add(*taken.worker, {count, count * taken.memory});
}

void Round::ForEachEnd(bool cuda, int64_t memory, const std::function<void(absl::Duration, int64_t)>& visit) const {
  Rooms rooms(*cluster_, memory);
  for (const auto& [key, slots] : cluster_->classes()) {
    if (!Serves(slots, cuda, memory)) continue;
    for (const SlotClass::End& end : slots.ends) visit(end.end, Gain(slots, *end.job, end.count, 1, &rooms));
  }
}

// What is over now, and what was taken in this round.
void Round::AddEnded(const Shape& shape, Rooms* rooms) const {
  for (const auto& [key, slots] : cluster_->classes()) {
    if (!Serves(slots, shape.cuda, shape.memory) || slots.LevelOf(shape.memory) == nullptr) continue;
    for (const SlotClass::End& end : slots.ends) {
      if (end.end > now_) break;
      rooms->AddJob(*end.job, slots, 1);
    }
  }
  for (const Taken& taken : taken_) {
    if (Serves(*taken.slots, shape.cuda, shape.memory)) AddTaken(taken, -1, rooms);
  }
}

// What the worker has for new ranks when all that ends until then, or was asked to leave, is gone.
Room Round::RoomAt(const ClusterWorker& worker, absl::Duration at) const {
  Room room = worker.capacity;
  for (const auto& [slot, job] : worker.tenants) {
    if (job->view.expected_end > at && !IsLeaving(job->view.job)) room += {-1, -job->view.memory};
  }
  if (const auto given = given_.find(&worker); given != given_.end()) room += given->second;
  const auto taken = taken_on_.find(&worker);
  if (taken == taken_on_.end()) return room;
  for (const size_t index : taken->second) {
    const auto count = static_cast<int64_t>(taken_[index].indices.size());
    if (taken_[index].end > at) room += {-count, -count * taken_[index].memory};
  }
  return room;
}

// How many of the slots that are kept, or of what is to spare beside them, the piece would use up.
int64_t Round::Harm(const Shape& kept, const Piece& piece, int64_t memory) const {
  if (!Serves(*piece.slots, kept.cuda, kept.memory)) return 0;
  // Of what is needed at an unknown moment, each rank counts.
  if (piece.slots->LevelOf(kept.memory) == nullptr || kept.kept.at == absl::InfiniteDuration()) return piece.count;
  Room room = RoomAt(*piece.worker, kept.kept.at);
  const int64_t before = room.Ranks(kept.memory);
  room += {-piece.count, -piece.count * memory};
  return before - room.Ranks(kept.memory);
}

// What can be used of the worker now without taking a rank's room from the job that CPU slots are kept for.
const Room& Round::SlackOf(const ClusterWorker& worker) {
  const auto [it, added] = slack_.try_emplace(&worker);
  if (!added) return it->second;
  const Shape& turn = shapes_[*cpu_turn_];
  Room slack = RoomAt(worker, turn.kept.at);
  if (worker.cpu->memory >= turn.memory) {
    const int64_t ranks = slack.Ranks(turn.memory);
    slack += {-ranks, -ranks * turn.memory};
  }
  const auto free = worker.free.find(worker.cpu);
  slack.slots = std::min(slack.slots, free == worker.free.end() ? 0 : static_cast<int64_t>(free->second.size()));
  slack.bytes = std::min(slack.bytes, worker.free_bytes);
  return it->second = slack;
}

// PlanAround has found no place for less: there is only less in the course of a round.
bool Round::IsInVain(int64_t memory, int64_t need) const {
  return std::any_of(in_vain_.begin(), in_vain_.end(),
                     [&](const auto& tried) { return tried.first <= memory && tried.second <= need; });
}

// A plan beside the job that CPU slots are kept for, also on workers that Plan would take last. Empty: there is none,
// or none among those that a round looks at.
std::vector<Round::Piece> Round::PlanAround(const Shape& shape, int64_t need) {
  const Reservation& kept = shapes_[*cpu_turn_].kept;
  const auto is_open = [&](const SlotClass& slots) {
    if (!Serves(slots, false, shape.memory)) return false;
    // At an unknown moment it may need any worker that could hold a rank of it.
    return kept.at != absl::InfiniteDuration() || slots.memory < kept.memory;
  };
  if (IsInVain(shape.memory, need)) return {};
  std::vector<Piece> plan;
  for (const bool whole : {true, false}) {
    int64_t left = need;
    plan.clear();
    for (auto& [key, slots] : cluster_->classes()) {
      if (!is_open(slots)) continue;
      const Buckets& buckets = slots.BucketsFor(shape.memory);
      for (auto bucket = whole ? buckets.lower_bound(need) : buckets.begin(); bucket != buckets.end(); ++bucket) {
        for (ClusterWorker* worker : bucket->second) {
          if (++looked_around_ > kMostLookedAround) return {};
          const int64_t count = std::min(left, SlackOf(*worker).Ranks(shape.memory));
          if (count == 0 || (whole && count < need)) continue;
          plan.push_back({worker, &slots, count});
          left -= count;
          if (left == 0) return plan;
        }
      }
    }
  }
  in_vain_.emplace_back(shape.memory, need);
  return {};
}

}  // namespace sab::server
