#include "server/scheduling/cluster.h"

#include <algorithm>
#include <bit>

#include "common/base/memory_sizes.h"

namespace sab::server {
namespace {

bool EndsBefore(const SlotClass::End& a, const SlotClass::End& b) {
  if (a.end != b.end) return a.end < b.end;
  return ById()(a.job, b.job);
}

// Nothing but which slots are free, and what is held, differs.
bool SameShape(const WorkerView& a, const WorkerView& b) {
  if (a.draining != b.draining || a.slots.size() != b.slots.size()) return false;
  for (size_t i = 0; i < a.slots.size(); ++i) {
    const SlotView &x = a.slots[i], &y = b.slots[i];
    if (x.index != y.index || x.cuda != y.cuda || x.memory_bytes != y.memory_bytes) return false;
  }
  return true;
}

template <typename Id>
uint64_t PrefixOf(const Id& id) {
  uint64_t prefix = 0;
  for (size_t i = 0; i < 8; ++i) {
    prefix = prefix << 8 | (i < id.value().size() ? static_cast<unsigned char>(id.value()[i]) : 0);
  }
  return prefix;
}

bool CanTake(const WorkerView& worker, const SlotView& slot) {
  return slot.free && worker.accepts;
}

void Move(Buckets& buckets, ClusterWorker* worker, int64_t before, int64_t after) {
  if (before == after) return;
  if (before <= 0) {
    buckets[after].insert(worker);
    return;
  }
  auto it = buckets.find(before);
  auto node = it->second.extract(worker);
  if (it->second.empty()) buckets.erase(it);
  if (after > 0) buckets[after].insert(std::move(node));
}

LaneKey LaneOf(const WaitingJob& job) {
  // Few lanes, each of which is looked into deeply enough.
  const int bits = std::bit_width(static_cast<uint64_t>(job.request.memory));
  return {job.queue, job.request.device, job.request.min_gpu_memory, bits / 4};
}

// What its CPU slots hold together.
Room CapacityOf(const WorkerView& worker) {
  Room room;
  for (const SlotView& slot : worker.slots) {
    if (!slot.cuda) room += {1, slot.memory_bytes};
  }
  if (room.bytes == 0) room.bytes = kNoBound;
  return room;
}

int64_t HeldBytes(const WorkerView& worker) {
  int64_t bytes = 0;
  for (const SlotView& slot : worker.slots) bytes += slot.cuda || slot.free ? 0 : slot.held_bytes;
  return bytes;
}

const SlotView* FindSlot(const WorkerView& worker, int32_t index) {
  // Nearly always the slots are numbered from 0.
  if (index >= 0 && static_cast<size_t>(index) < worker.slots.size() && worker.slots[index].index == index) {
    return &worker.slots[index];
  }
  const auto slot = std::find_if(worker.slots.begin(), worker.slots.end(),
                                 [&](const SlotView& candidate) { return candidate.index == index; });
  return slot == worker.slots.end() ? nullptr : &*slot;
}

}  // namespace

int64_t GangRequest::MostOf(int64_t slots) const {
  int64_t most = std::min(slots, replicas);
  if (powers_of_two && most > 0) most = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(most)));
  return most >= least() ? most : 0;
}

bool ById::operator()(const ClusterWorker* a, const ClusterWorker* b) const {
  return a->prefix != b->prefix ? a->prefix < b->prefix : a->view.id < b->view.id;
}

bool ById::operator()(const ClusterJob* a, const ClusterJob* b) const {
  return a->prefix != b->prefix ? a->prefix < b->prefix : a->view.job < b->view.job;
}

bool BeforeInQueue::operator()(const WaitingJob* a, const WaitingJob* b) const {
  if (a->priority != b->priority) return a->priority > b->priority;
  if (a->create_time != b->create_time) return a->create_time < b->create_time;
  return a->job < b->job;
}

bool GrowsBefore::operator()(const ClusterJob* a, const ClusterJob* b) const {
  if (a->view.priority != b->view.priority) return a->view.priority > b->view.priority;
  if (a->view.start != b->view.start) return a->view.start < b->view.start;
  return a->view.job < b->view.job;
}

bool LeavesBefore::operator()(const ClusterJob* a, const ClusterJob* b) const {
  if (a->view.priority != b->view.priority) return a->view.priority < b->view.priority;
  if (a->view.start != b->view.start) return a->view.start > b->view.start;
  return a->view.job < b->view.job;
}

Cluster::Cluster(Options options) : options_(options) {}
Cluster::~Cluster() = default;

// --- Workers.

ClusterWorker& Cluster::WorkerOf(const WorkerId& id) {
  const auto [it, added] = workers_.try_emplace(id);
  if (!added) return it->second;
  if (unused_indices_.empty()) unused_indices_.push_back(worker_indices_++);
  it->second.index = unused_indices_.back();
  unused_indices_.pop_back();
  return it->second;
}

void Cluster::Forget(absl::node_hash_map<WorkerId, ClusterWorker>::iterator worker) {
  unused_indices_.push_back(worker->second.index);
  workers_.erase(worker);
}

SlotClass* Cluster::ClassOf(const ClusterWorker& worker, const SlotView& slot) {
  const int64_t memory = slot.cuda ? slot.memory_bytes : RoundDownMemory(worker.capacity.bytes);
  const auto [it, added] = classes_.try_emplace({slot.cuda, memory});
  SlotClass& slots = it->second;
  if (!added) return &slots;
  slots.cuda = slot.cuda;
  slots.memory = memory;
  for (const auto& [level, users] : levels_) {
    if (slots.HasLevels() && slots.memory >= level) slots.levels.push_back(Level{.memory = level});
  }
  return &slots;
}

void Cluster::Bucket(ClusterWorker* worker, SlotClass* slots, const Room& before, const Room& after) {
  Move(slots->by_free, worker, before.slots, after.slots);
  slots->free += after.slots - before.slots;
  for (Level& level : slots->levels) {
    const int64_t ranks_before = before.Ranks(level.memory), ranks_after = after.Ranks(level.memory);
    Move(level.by_free, worker, ranks_before, ranks_after);
    level.free += ranks_after - ranks_before;
  }
}

std::vector<int32_t> Cluster::Take(ClusterWorker* worker, SlotClass* slots, int64_t count, int64_t memory) {
  auto it = worker->free.find(slots);
  std::vector<int32_t>& free = it->second;
  const Room before{static_cast<int64_t>(free.size()), worker->free_bytes};
  std::vector<int32_t> taken(free.begin(), free.begin() + count);
  free.erase(free.begin(), free.begin() + count);
  if (!slots->cuda) worker->free_bytes -= count * memory;
  Bucket(worker, slots, before, {before.slots - count, worker->free_bytes});
  if (free.empty()) worker->free.erase(it);
  return taken;
}

void Cluster::Give(ClusterWorker* worker, SlotClass* slots, const std::vector<int32_t>& indices, int64_t memory) {
  if (indices.empty()) return;
  std::vector<int32_t> free = worker->free[slots];
  free.insert(free.end(), indices.begin(), indices.end());
  std::sort(free.begin(), free.end());
  const auto count = static_cast<int64_t>(indices.size());
  SetFree(worker, slots, std::move(free), worker->free_bytes + (slots->cuda ? 0 : count * memory));
}

void Cluster::SetFree(ClusterWorker* worker, SlotClass* slots, std::vector<int32_t> indices, int64_t bytes) {
  std::vector<int32_t>& free = worker->free[slots];
  const Room before{static_cast<int64_t>(free.size()), worker->free_bytes};
  free = std::move(indices);
  if (!slots->cuda) worker->free_bytes = bytes;
  Bucket(worker, slots, before, {static_cast<int64_t>(free.size()), worker->free_bytes});
  if (free.empty()) worker->free.erase(slots);
}

Cluster::FreeSlots Cluster::FreeOf(const ClusterWorker& worker, const WorkerView& view) {
  FreeSlots free;
  SlotClass* slots = nullptr;
  for (const SlotView& slot : view.slots) {
    if (!CanTake(view, slot)) continue;
    if (slots == nullptr || slots->cuda != slot.cuda || slot.cuda) slots = ClassOf(worker, slot);
    free[slots].push_back(slot.index);
  }
  return free;
}

void Cluster::Connect(ClusterWorker& worker) {
  worker.connected = true;
  ++connected_workers_;
  worker.capacity = CapacityOf(worker.view);
  worker.free_bytes = worker.capacity.bytes - HeldBytes(worker.view);
  if (worker.view.draining) return;
  for (const SlotView& slot : worker.view.slots) {
    SlotClass* slots = ClassOf(worker, slot);
    ++slots->total;
    if (!slot.cuda) worker.cpu = slots;
  }
  if (worker.cpu != nullptr) {
    for (Level& level : worker.cpu->levels) {
      level.total += worker.capacity.Ranks(level.memory);
      level.leaving += worker.capacity.Ranks(level.memory);
    }
  }
  for (const auto& [index, job] : worker.tenants) {
    const SlotView* slot = FindSlot(worker.view, index);
    if (slot == nullptr) continue;
    Count(job, ClassOf(worker, *slot), 1);
    Hold(job, &worker, ClassOf(worker, *slot), 1);
  }
  for (auto& [slots, indices] : FreeOf(worker, worker.view)) SetFree(&worker, slots, indices, worker.free_bytes);
}

void Cluster::Disconnect(ClusterWorker& worker) {
  if (!worker.connected) return;
  worker.connected = false;
  --connected_workers_;
  if (worker.view.draining) return;
  while (!worker.free.empty()) SetFree(&worker, worker.free.begin()->first, {}, worker.free_bytes);
  for (const auto& [index, job] : worker.tenants) {
    if (const SlotView* slot = FindSlot(worker.view, index)) Drop(job, &worker, ClassOf(worker, *slot));
  }
  for (const SlotView& slot : worker.view.slots) --ClassOf(worker, slot)->total;
  if (worker.cpu != nullptr) {
    for (Level& level : worker.cpu->levels) {
      level.total -= worker.capacity.Ranks(level.memory);
      level.leaving -= worker.capacity.Ranks(level.memory);
    }
  }
  worker.cpu = nullptr;
}

void Cluster::PutWorker(const WorkerView& view) {
  ClusterWorker& worker = WorkerOf(view.id);
  if (!worker.connected || !SameShape(worker.view, view)) {
    Disconnect(worker);
    worker.view = view;
    worker.prefix = PrefixOf(view.id);
    Connect(worker);
    return;
  }
  const int64_t bytes = worker.capacity.bytes - HeldBytes(view);
  bool same = bytes == worker.free_bytes;
  for (size_t i = 0; i < view.slots.size() && same; ++i) {
    same = CanTake(worker.view, worker.view.slots[i]) == CanTake(view, view.slots[i]);
  }
  worker.view.accepts = view.accepts;
  worker.view.slots = view.slots;
  if (same) return;
  if (view.draining) {
    worker.free_bytes = bytes;
    return;
  }
  FreeSlots free = FreeOf(worker, view);
  for (const auto& [slots, indices] : worker.free) free.try_emplace(slots);
  // Where no CPU slot is free or comes free, its memory counts from now on all the same.
  if (worker.cpu != nullptr) free.try_emplace(worker.cpu);
  for (auto& [slots, indices] : free) SetFree(&worker, slots, std::move(indices), bytes);
}

void Cluster::RemoveWorker(const WorkerId& id) {
  auto it = workers_.find(id);
  if (it == workers_.end()) return;
  Disconnect(it->second);
  if (it->second.tenants.empty()) Forget(it);
}

// --- Jobs.

void Cluster::Count(ClusterJob* job, SlotClass* slots, int64_t change) {
  const SlotClass::End key{job->view.expected_end, job, 0};
  auto it = std::lower_bound(slots->ends.begin(), slots->ends.end(), key, EndsBefore);
  if (it == slots->ends.end() || it->job != job) it = slots->ends.insert(it, key);
  it->count += change;
  if (it->count == 0) slots->ends.erase(it);
  slots->running += change;
  if ((job->counted[slots] += change) == 0) job->counted.erase(slots);
}

void Cluster::PutWaiting(const WaitingJob& job, absl::Duration now) {
  UseLevel(job.request.memory);
  RemoveJob(job.job, now);
  const WaitingJob& kept = waiting_[job.job] = job;
  Lane& lane = lanes_[LaneOf(job)];
  lane.queue = QueueOf(job.queue);
  lane.jobs.insert(&kept);
}

void Cluster::RemoveWaiting(const JobId& id) {
  auto it = waiting_.find(id);
  if (it == waiting_.end()) return;
  const WaitingJob& job = it->second;
  auto lane = lanes_.find(LaneOf(job));
  lane->second.jobs.erase(&job);
  if (lane->second.jobs.empty()) lanes_.erase(lane);
  LeaveLevel(job.request.memory);
  waiting_.erase(it);
}

void Cluster::PutRunning(const RunningJob& view, absl::Duration now) {
  auto before = running_.find(view.job);
  const bool starts = before == running_.end() || before->second.view.start != view.start;
  RemoveJob(view.job, now);
  ClusterJob& job = running_[view.job];
  job.view = view;
  job.prefix = PrefixOf(view.job);
  job.queue = QueueOf(view.queue);
  Settle(*job.queue, now);
  if (view.is_short()) UseLevel(view.memory);
  ClusterWorker* worker = nullptr;
  std::map<SlotClass*, int64_t> counted;
  for (const RankPlacement& place : view.placements) {
    if (worker == nullptr || worker->view.id != place.worker) worker = &WorkerOf(place.worker);
    worker->view.id = place.worker;
    ClusterJob* previous = std::exchange(worker->tenants[place.slot], &job);
    if (!worker->connected || worker->view.draining) continue;
    const SlotView* slot = FindSlot(worker->view, place.slot);
    if (slot == nullptr) continue;
    SlotClass* slots = slot->cuda ? ClassOf(*worker, *slot) : worker->cpu;
    if (previous != nullptr && previous != &job) Drop(previous, worker, slots);
    ++counted[slots];
    Hold(&job, worker, slots, 1);
  }
  for (const auto& [class_of, count] : counted) Count(&job, class_of, count);
  const auto slots = static_cast<int64_t>(view.placements.size());
  job.queue->in_use[view.cuda] += slots;
  if (starts) job.queue->usage[view.cuda] += static_cast<double>(slots) * absl::ToDoubleSeconds(options_.start_charge);
  if (view.preemptible && !view.stopping && victims_.insert(&job).second) AddRoom(to_preempt_, view, view.ranks());
  if (view.is_short() && !view.stopping) short_.insert(&job);
  if (view.has_spare() && !view.stopping && spare_.insert(&job).second) {
    AddRoom(to_spare_, view, view.ranks() - view.request.least());
    job.queue->lent[view.cuda] += view.ranks() - view.request.least();
  }
}

void Cluster::RemoveRunning(const JobId& id, absl::Duration now) {
  auto it = running_.find(id);
  if (it == running_.end()) return;
  ClusterJob& job = it->second;
  Settle(*job.queue, now);
  job.queue->in_use[job.view.cuda] -= static_cast<int64_t>(job.view.placements.size());
  while (!job.counted.empty()) Count(&job, job.counted.begin()->first, -job.counted.begin()->second);
  while (!job.cpus.empty()) Hold(&job, job.cpus.back().first, job.cpus.back().first->cpu, -job.cpus.back().second);
  if (job.view.is_short()) LeaveLevel(job.view.memory);
  auto worker = workers_.end();
  for (const RankPlacement& place : job.view.placements) {
    if (worker == workers_.end() || worker->first != place.worker) worker = workers_.find(place.worker);
    if (worker == workers_.end()) continue;
    const auto tenant = worker->second.tenants.find(place.slot);
    if (tenant != worker->second.tenants.end() && tenant->second == &job) worker->second.tenants.erase(tenant);
    if (!worker->second.tenants.empty() || worker->second.connected) continue;
    Forget(worker);
    worker = workers_.end();
  }
  if (victims_.erase(&job) > 0) AddRoom(to_preempt_, job.view, -job.view.ranks());
  short_.erase(&job);
  if (spare_.erase(&job) > 0) {
    AddRoom(to_spare_, job.view, job.view.request.least() - job.view.ranks());
    job.queue->lent[job.view.cuda] -= job.view.ranks() - job.view.request.least();
  }
  running_.erase(it);
}

void Cluster::RemoveJob(const JobId& id, absl::Duration now) {
  RemoveWaiting(id);
  RemoveRunning(id, now);
}

// --- Looking.

const WaitingJob* Cluster::FindWaiting(const JobId& id) const {
  auto it = waiting_.find(id);
  return it == waiting_.end() ? nullptr : &it->second;
}

void Cluster::AddRoom(RoomByPriority& rooms, const RunningJob& job, int64_t ranks) {
  Room& room = rooms[job.priority][job.cuda];
  room += {ranks, ranks * job.memory};
  if (rooms[job.priority][0].slots == 0 && rooms[job.priority][1].slots == 0) rooms.erase(job.priority);
}

Room Cluster::Sum(const RoomByPriority& rooms, bool cuda, int64_t below) {
  Room sum;
  for (auto it = rooms.begin(); it != rooms.end() && it->first < below; ++it) sum += it->second[cuda];
  return sum;
}

Room Cluster::MostToSpare(bool cuda, int64_t priority) const {
  return Sum(to_spare_, cuda, priority + 1);
}

Room Cluster::MostToPreempt(bool cuda, int64_t priority) const {
  return Sum(to_preempt_, cuda, priority);
}

const ClusterWorker* Cluster::FindWorker(const WorkerId& id) const {
  auto it = workers_.find(id);
  return it == workers_.end() ? nullptr : &it->second;
}

const SlotClass* Cluster::ClassOfSlot(const ClusterWorker& worker, int32_t slot) const {
  if (!worker.connected || worker.view.draining) return nullptr;
  const SlotView* view = FindSlot(worker.view, slot);
  if (view == nullptr) return nullptr;
  if (!view->cuda) return worker.cpu;
  const auto it = classes_.find({true, view->memory_bytes});
  return it == classes_.end() ? nullptr : &it->second;
}

const ClusterJob* Cluster::FindRunning(const JobId& id) const {
  auto it = running_.find(id);
  return it == running_.end() ? nullptr : &it->second;
}

}  // namespace sab::server
