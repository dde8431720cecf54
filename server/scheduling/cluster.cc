#include "server/scheduling/cluster.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sab::server {
namespace {

bool EndsBefore(const SlotClass::End& a, const SlotClass::End& b) {
  if (a.end != b.end) return a.end < b.end;
  return a.job->view.job < b.job->view.job;
}

// Nothing but which slots are free differs.
bool SameShape(const WorkerView& a, const WorkerView& b) {
  if (a.draining != b.draining || a.slots.size() != b.slots.size()) return false;
  for (size_t i = 0; i < a.slots.size(); ++i) {
    SlotView slot = a.slots[i];
    slot.free = b.slots[i].free;
    if (slot != b.slots[i]) return false;
  }
  return true;
}

uint64_t PrefixOf(const WorkerId& id) {
  uint64_t prefix = 0;
  for (size_t i = 0; i < 8; ++i) {
    prefix = prefix << 8 | (i < id.value().size() ? static_cast<unsigned char>(id.value()[i]) : 0);
  }
  return prefix;
}

bool CanTake(const WorkerView& worker, const SlotView& slot) {
  return slot.free && worker.accepts;
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

// --- Queues.

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

// --- Workers.

SlotClass* Cluster::ClassOf(const SlotView& slot) {
  const int64_t memory = slot.cuda ? slot.memory_bytes : 0;
  SlotClass& slots = classes_[{slot.cuda, memory}];
  slots.cuda = slot.cuda;
  slots.memory = memory;
  return &slots;
}

void Cluster::Bucket(ClusterWorker* worker, SlotClass* slots, size_t before, size_t after) {
  if (before > 0) {
    auto it = slots->by_free.find(static_cast<int64_t>(before));
    it->second.erase(worker);
    if (it->second.empty()) slots->by_free.erase(it);
  }
  if (after > 0) slots->by_free[static_cast<int64_t>(after)].insert(worker);
}

std::vector<int32_t> Cluster::Take(ClusterWorker* worker, SlotClass* slots, int64_t count) {
  auto it = worker->free.find(slots);
  std::vector<int32_t>& free = it->second;
  const size_t before = free.size();
  std::vector<int32_t> taken(free.begin(), free.begin() + count);
  free.erase(free.begin(), free.begin() + count);
  Bucket(worker, slots, before, free.size());
  if (free.empty()) worker->free.erase(it);
  slots->free -= count;
  return taken;
}

void Cluster::Give(ClusterWorker* worker, SlotClass* slots, const std::vector<int32_t>& indices) {
  if (indices.empty()) return;
  std::vector<int32_t>& free = worker->free[slots];
  const size_t before = free.size();
  free.insert(free.end(), indices.begin(), indices.end());
  std::sort(free.begin(), free.end());
  Bucket(worker, slots, before, free.size());
  slots->free += static_cast<int64_t>(indices.size());
}

void Cluster::Connect(ClusterWorker& worker) {
  worker.connected = true;
  ++connected_workers_;
  if (worker.view.draining) return;
  std::map<SlotClass*, std::vector<int32_t>> free;
  for (const SlotView& slot : worker.view.slots) {
    SlotClass* slots = ClassOf(slot);
    ++slots->total;
    if (auto tenant = worker.tenants.find(slot.index); tenant != worker.tenants.end()) Count(tenant->second, slots, 1);
    if (CanTake(worker.view, slot)) free[slots].push_back(slot.index);
  }
  for (const auto& [slots, indices] : free) Give(&worker, slots, indices);
}

void Cluster::Disconnect(ClusterWorker& worker) {
  if (!worker.connected) return;
  worker.connected = false;
  --connected_workers_;
  if (worker.view.draining) return;
  while (!worker.free.empty()) {
    const auto& [slots, indices] = *worker.free.begin();
    Take(&worker, slots, static_cast<int64_t>(indices.size()));
  }
  for (const SlotView& slot : worker.view.slots) {
    SlotClass* slots = ClassOf(slot);
    --slots->total;
    if (auto tenant = worker.tenants.find(slot.index); tenant != worker.tenants.end()) Count(tenant->second, slots, -1);
  }
}

void Cluster::PutWorker(const WorkerView& view) {
  ClusterWorker& worker = workers_[view.id];
  if (!worker.connected || !SameShape(worker.view, view)) {
    Disconnect(worker);
    worker.view = view;
    worker.prefix = PrefixOf(view.id);
    Connect(worker);
    return;
  }
  if (!view.draining) {
    std::map<SlotClass*, std::vector<int32_t>> given;
    for (size_t i = 0; i < view.slots.size(); ++i) {
      const bool before = CanTake(worker.view, worker.view.slots[i]), after = CanTake(view, view.slots[i]);
      if (after && !before) given[ClassOf(view.slots[i])].push_back(view.slots[i].index);
      if (!before || after) continue;
      SlotClass* slots = ClassOf(view.slots[i]);
      // Take has no choice of slots: all are taken and the others given back.
      std::vector<int32_t> all = Take(&worker, slots, static_cast<int64_t>(worker.free.at(slots).size()));
      std::erase(all, view.slots[i].index);
      Give(&worker, slots, all);
    }
    for (const auto& [slots, indices] : given) Give(&worker, slots, indices);
  }
  worker.view = view;
}

void Cluster::RemoveWorker(const WorkerId& id) {
  auto it = workers_.find(id);
  if (it == workers_.end()) return;
  Disconnect(it->second);
  if (it->second.tenants.empty()) workers_.erase(it);
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
  RemoveJob(job.job, now);
  const WaitingJob& kept = waiting_[job.job] = job;
  Lane& lane = lanes_[{job.queue, job.request.device, job.request.min_gpu_memory}];
  lane.queue = QueueOf(job.queue);
  lane.jobs.insert(&kept);
}

void Cluster::RemoveWaiting(const JobId& id) {
  auto it = waiting_.find(id);
  if (it == waiting_.end()) return;
  const WaitingJob& job = it->second;
  auto lane = lanes_.find({job.queue, job.request.device, job.request.min_gpu_memory});
  lane->second.jobs.erase(&job);
  if (lane->second.jobs.empty()) lanes_.erase(lane);
  waiting_.erase(it);
}

void Cluster::PutRunning(const RunningJob& view, absl::Duration now) {
  auto before = running_.find(view.job);
  const bool starts = before == running_.end() || before->second.view.start != view.start;
  RemoveJob(view.job, now);
  ClusterJob& job = running_[view.job];
  job.view = view;
  job.queue = QueueOf(view.queue);
  Settle(*job.queue, now);
  ClusterWorker* worker = nullptr;
  std::map<SlotClass*, int64_t> counted;
  for (const RankPlacement& place : view.placements) {
    if (worker == nullptr || worker->view.id != place.worker) worker = &workers_[place.worker];
    worker->view.id = place.worker;
    worker->tenants[place.slot] = &job;
    if (!worker->connected || worker->view.draining) continue;
    for (const SlotView& slot : worker->view.slots) {
      if (slot.index == place.slot) ++counted[ClassOf(slot)];
    }
  }
  for (const auto& [class_of, count] : counted) Count(&job, class_of, count);
  const auto slots = static_cast<int64_t>(view.placements.size());
  job.queue->in_use[view.cuda] += slots;
  if (starts) job.queue->usage[view.cuda] += static_cast<double>(slots) * absl::ToDoubleSeconds(options_.start_charge);
  if (view.preemptible && !view.stopping) victims_.insert(&job);
  if (view.is_short() && !view.stopping) short_.insert(&job);
}

void Cluster::RemoveRunning(const JobId& id, absl::Duration now) {
  auto it = running_.find(id);
  if (it == running_.end()) return;
  ClusterJob& job = it->second;
  Settle(*job.queue, now);
  job.queue->in_use[job.view.cuda] -= static_cast<int64_t>(job.view.placements.size());
  while (!job.counted.empty()) Count(&job, job.counted.begin()->first, -job.counted.begin()->second);
  auto worker = workers_.end();
  for (const RankPlacement& place : job.view.placements) {
    if (worker == workers_.end() || worker->first != place.worker) worker = workers_.find(place.worker);
    worker->second.tenants.erase(place.slot);
    if (!worker->second.tenants.empty() || worker->second.connected) continue;
    workers_.erase(worker);
    worker = workers_.end();
  }
  victims_.erase(&job);
  short_.erase(&job);
  running_.erase(it);
}

void Cluster::RemoveJob(const JobId& id, absl::Duration now) {
  RemoveWaiting(id);
  RemoveRunning(id, now);
}

// --- Looking.

int64_t Cluster::Total(bool cuda, int64_t min_memory) const {
  int64_t total = 0;
  for (const auto& [key, slots] : classes_) {
    if (slots.cuda == cuda && slots.memory >= min_memory) total += slots.total;
  }
  return total;
}

int64_t Cluster::Free(bool cuda, int64_t min_memory) const {
  int64_t free = 0;
  for (const auto& [key, slots] : classes_) {
    if (slots.cuda == cuda && slots.memory >= min_memory) free += slots.free;
  }
  return free;
}

const WaitingJob* Cluster::FindWaiting(const JobId& id) const {
  auto it = waiting_.find(id);
  return it == waiting_.end() ? nullptr : &it->second;
}

const ClusterJob* Cluster::FindRunning(const JobId& id) const {
  auto it = running_.find(id);
  return it == running_.end() ? nullptr : &it->second;
}

}  // namespace sab::server
