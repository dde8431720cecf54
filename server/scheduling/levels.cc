// The part of the cluster that knows how CPU ranks share their worker's memory.
#include <algorithm>
#include <cstdlib>

#include "server/scheduling/cluster.h"

namespace sab::server {
namespace {

// Levels that no job needs are kept while there are no more than so many: the next job of that size is likely.
constexpr size_t kMostIdleLevels = 16;

// Where the level is, or would be.
template <typename Levels>
auto Place(Levels& levels, int64_t memory) {
  return std::lower_bound(levels.begin(), levels.end(), memory,
                          [](const Level& level, int64_t bytes) { return level.memory < bytes; });
}

}  // namespace

const Level* SlotClass::FindLevel(int64_t of) const {
  const auto level = Place(levels, of);
  if (level == levels.end() || level->memory != of) std::abort();  // no job that is known asks for so much
  return &*level;
}

int64_t SlotClass::TotalFor(int64_t memory) const {
  const Level* level = LevelOf(memory);
  return level == nullptr ? total : level->total;
}

int64_t SlotClass::FreeFor(int64_t memory) const {
  const Level* level = LevelOf(memory);
  return level == nullptr ? free : level->free;
}

int64_t SlotClass::LeavingFor(int64_t memory) const {
  const Level* level = LevelOf(memory);
  return level == nullptr ? total - running : level->leaving;
}

const Buckets& SlotClass::BucketsFor(int64_t memory) const {
  const Level* level = LevelOf(memory);
  return level == nullptr ? by_free : level->by_free;
}

void Cluster::AddLevel(int64_t memory) {
  const auto has_level = [&](const SlotClass& slots) { return slots.HasLevels() && slots.memory >= memory; };
  for (auto& [key, slots] : classes_) {
    if (has_level(slots)) slots.levels.insert(Place(slots.levels, memory), Level{.memory = memory});
  }
  for (auto& [id, worker] : workers_) {
    if (worker.cpu == nullptr || !has_level(*worker.cpu)) continue;
    Level& level = *Place(worker.cpu->levels, memory);
    level.total += worker.capacity.Ranks(memory);
    level.leaving += worker.leaving().Ranks(memory);
    const auto free = worker.free.find(worker.cpu);
    const int64_t slots = free == worker.free.end() ? 0 : static_cast<int64_t>(free->second.size());
    const int64_t ranks = Room{slots, worker.free_bytes}.Ranks(memory);
    if (ranks == 0) continue;
    level.free += ranks;
    level.by_free[ranks].insert(&worker);
  }
}

void Cluster::UseLevel(int64_t memory) {
  if (memory == 0) return;
  const auto [it, added] = levels_.try_emplace(memory, 0);
  ++it->second;
  if (added) AddLevel(memory);
}

void Cluster::LeaveLevel(int64_t memory) {
  if (memory == 0 || --levels_.at(memory) > 0 || levels_.size() <= kMostIdleLevels) return;
  levels_.erase(memory);
  for (auto& [key, slots] : classes_) {
    std::erase_if(slots.levels, [&](const Level& level) { return level.memory == memory; });
  }
}

// Ranks of the job hold a slot of the class, and its memory, on the worker: by `change` more or fewer.
void Cluster::Hold(ClusterJob* job, ClusterWorker* worker, SlotClass* slots, int64_t change) {
  if (!slots->HasLevels()) return;
  std::vector<std::pair<ClusterWorker*, int64_t>>& cpus = job->cpus;
  const auto on = [&](const auto& item) { return item.first == worker; };
  auto it = !cpus.empty() && on(cpus.back()) ? cpus.end() - 1 : std::find_if(cpus.begin(), cpus.end(), on);
  if (it == cpus.end()) it = cpus.insert(cpus.end(), {worker, 0});
  if ((it->second += change) == 0) cpus.erase(it);
  const Room before = worker->leaving();
  worker->held += {change, change * job->view.memory};
  for (Level& level : slots->levels) {
    level.leaving += worker->leaving().Ranks(level.memory) - before.Ranks(level.memory);
  }
}

void Cluster::Drop(ClusterJob* job, ClusterWorker* worker, SlotClass* slots) {
  Count(job, slots, -1);
  Hold(job, worker, slots, -1);
}

int64_t Cluster::Total(bool cuda, int64_t memory) const {
  int64_t total = 0;
  for (const auto& [key, slots] : classes_) {
    if (Serves(slots, cuda, memory)) total += slots.TotalFor(memory);
  }
  return total;
}

int64_t Cluster::Free(bool cuda, int64_t memory) const {
  int64_t free = 0;
  for (const auto& [key, slots] : classes_) {
    if (Serves(slots, cuda, memory)) free += slots.FreeFor(memory);
  }
  return free;
}

bool Cluster::bounded() const {
  return std::any_of(classes_.begin(), classes_.end(),
                     [](const auto& item) { return item.second.HasLevels() && item.second.total > 0; });
}

int64_t Cluster::LargestMemory() const {
  int64_t largest = 0;
  for (const auto& [key, slots] : classes_) {
    if (!slots.cuda && slots.total > 0) largest = std::max(largest, slots.memory);
  }
  return largest;
}

}  // namespace sab::server
