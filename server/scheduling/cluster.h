#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/node_hash_map.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "sab/v1/spec.pb.h"

// What the scheduler knows: workers, jobs and queues, kept as indexes that a change touches where it must and nowhere
// else. Times are monotonic.
namespace sab::server {

// One slot as the scheduler sees it.
struct SlotView {
  int32_t index = 0;
  bool cuda = false;
  bool free = false;
  int64_t memory_bytes = 0;  // of the GPU; of a CPU slot: its part of what the worker has for all of them, 0: no bound
  int64_t held_bytes = 0;    // of a CPU slot that is not free: what was asked for what occupies it
  friend bool operator==(const SlotView&, const SlotView&) = default;
};

// One worker that is connected. Slots are in order of index.
struct WorkerView {
  WorkerId id;
  bool accepts = true;    // false: its present state is not known well enough to place anything
  bool draining = false;  // nothing is placed on it, and nobody waits for its slots
  std::vector<SlotView> slots;
};

// What shall be placed: `replicas` slots of one kind of device; an elastic job is content with fewer.
struct GangRequest {
  int64_t replicas = 1;
  v1::DeviceKind device = v1::DEVICE_KIND_AUTO;
  int64_t min_gpu_memory = 0;  // bytes; GPUs with less are not taken
  int64_t memory = 0;          // bytes of a rank on a CPU slot, of those that RoundUpMemory gives; 0: not known
  int64_t min_replicas = 0;    // the fewest; 0: `replicas`
  bool powers_of_two = false;  // numbers between that are none will not do
  // The fewest it starts with.
  int64_t least() const { return min_replicas > 0 ? min_replicas : replicas; }
  // The most of `slots` that it can use: a number of replicas that it may have. 0: too few.
  int64_t MostOf(int64_t slots) const;
};

// One rank's place; rank = position in a vector of them.
struct RankPlacement {
  WorkerId worker;
  int32_t slot = 0;
};

// A queue: who may use how much, and who goes first among equal priorities.
struct QueueConfig {
  std::string name = "default";
  double weight = 1;                                 // share of the cluster relative to other queues
  std::array<std::optional<int64_t>, 2> quota = {};  // most slots in use at a time; [0] cpu, [1] cuda
  int64_t max_priority = 100;                        // jobs may ask for no more
};

// A job that waits for slots.
struct WaitingJob {
  JobId job;
  std::string queue = "default";
  int64_t priority = 50;    // higher first
  int64_t create_time = 0;  // microseconds; earlier first
  GangRequest request;
  absl::Duration limit = absl::InfiniteDuration();  // it ends for sure within so long after its start
};

// A job that holds slots.
struct RunningJob {
  JobId job;
  std::string queue = "default";
  int64_t priority = 50;
  bool preemptible = false;
  bool cuda = false;                                       // the kind of its slots
  int64_t memory = 0;                                      // as in GangRequest, of what it runs as; 0 with GPUs
  absl::Duration start;                                    // of this attempt
  absl::Duration expected_end = absl::InfiniteDuration();  // infinite: unknown
  bool stopping = false;                                   // it has been asked to leave
  std::vector<RankPlacement> placements;
  GangRequest request;                                   // of an elastic job: what it could have
  absl::Duration may_resize = absl::InfiniteDuration();  // from then on its present number of ranks may be changed
  int64_t ranks() const { return static_cast<int64_t>(placements.size()); }
  bool is_short() const { return ranks() < request.replicas; }
  bool has_spare() const { return request.min_replicas > 0 && ranks() > request.min_replicas; }
};

// The CPU slots of a worker share its memory: how much of both.
struct Room {
  int64_t slots = 0;
  int64_t bytes = 0;
  Room& operator+=(const Room& other) {
    slots += other.slots;
    bytes += other.bytes;
    return *this;
  }
  // How many ranks of so many bytes it holds.
  int64_t Ranks(int64_t memory) const {
    if (memory == 0 || slots <= 0) return std::max<int64_t>(0, slots);
    // Most often the slots are fewer: no division then.
    return slots * memory <= bytes ? slots : std::max<int64_t>(0, bytes / memory);
  }
};

// Slots that are worth the same: GPUs of one size of memory; CPU slots of workers with about as much memory.
struct SlotClass;
struct ClusterWorker;
struct ClusterQueue;

// A running job and where it counts.
struct ClusterJob {
  RunningJob view;
  uint64_t prefix = 0;  // of the id: ordered as its first eight characters are
  ClusterQueue* queue = nullptr;
  std::map<SlotClass*, int64_t> counted;                 // slots on workers that are connected and not draining
  std::vector<std::pair<ClusterWorker*, int64_t>> cpus;  // the CPU slots among them, by worker
};

struct ById {
  bool operator()(const ClusterWorker* a, const ClusterWorker* b) const;
  bool operator()(const ClusterJob* a, const ClusterJob* b) const;
};

struct GrowsBefore {
  // The highest priority, then the earliest start, then id.
  bool operator()(const ClusterJob* a, const ClusterJob* b) const;
};

struct LeavesBefore {
  // The lowest priority, then the latest start, then id.
  bool operator()(const ClusterJob* a, const ClusterJob* b) const;
};

// Number of free slots (above 0) -> workers.
using Buckets = std::map<int64_t, std::set<ClusterWorker*, ById>>;

// CPU slots as ranks of one size see them: a worker has as many as it has slots and memory for.
struct Level {
  int64_t memory = 0;  // bytes of a rank
  int64_t total = 0, free = 0;
  int64_t leaving = 0;  // not held by running jobs
  Buckets by_free;
};

constexpr int64_t kNoBound = int64_t{1} << 60;  // bytes of a worker that does not say what it has

struct SlotClass {
  bool cuda = false;
  int64_t memory = 0;   // of each GPU; CPU: of the whole worker, rounded down, so that it holds a rank of no more
  int64_t total = 0;    // of workers that are connected and not draining
  int64_t free = 0;     // can be given away now
  int64_t running = 0;  // held by running jobs; the rest of `total` is being given back
  Buckets by_free;
  std::vector<Level> levels;  // of CPU slots with a bound, ascending
  // Null: slots alone count. Else there must be one of that size.
  const Level* LevelOf(int64_t of) const { return cuda || of == 0 || memory == kNoBound ? nullptr : FindLevel(of); }
  const Level* FindLevel(int64_t of) const;
  bool HasLevels() const { return !cuda && memory != kNoBound; }
  int64_t TotalFor(int64_t memory) const;
  int64_t FreeFor(int64_t memory) const;
  int64_t LeavingFor(int64_t memory) const;  // free, or being given back
  const Buckets& BucketsFor(int64_t memory) const;
  struct End {
    absl::Duration end;
    const ClusterJob* job;
    int64_t count;
  };
  std::vector<End> ends;  // of running jobs, soonest first, then by id
};

// Whether the slots do for what asks for so much memory: of the GPU at least, or of each rank on CPUs.
inline bool Serves(const SlotClass& slots, bool cuda, int64_t memory) {
  return slots.cuda == cuda && slots.memory >= memory;
}

struct ClusterWorker {
  WorkerView view;
  size_t index = 0;                                 // below Cluster::worker_indices, its own
  uint64_t prefix = 0;                              // of the id: ordered as its first eight characters are
  bool connected = false;                           // it was put, and not removed since
  std::map<SlotClass*, std::vector<int32_t>> free;  // ascending; never empty
  std::map<int32_t, ClusterJob*> tenants;           // running jobs by slot, connected or not
  SlotClass* cpu = nullptr;                         // of its CPU slots, while it is connected and not draining
  Room capacity;                                    // of all of those
  Room held;                                        // by running jobs
  int64_t free_bytes = 0;                           // that can be given away now
  Room leaving() const { return {capacity.slots - held.slots, capacity.bytes - held.bytes}; }
};

// Waiting jobs that differ in nothing but size, priority and age, and somewhat in the memory that they ask for on CPUs.
struct LaneKey {
  std::string queue;
  v1::DeviceKind device = v1::DEVICE_KIND_AUTO;
  int64_t min_gpu_memory = 0;
  int memory = 0;  // a fourth of the number of its bits: a lane spans a factor of sixteen
  friend auto operator<=>(const LaneKey&, const LaneKey&) = default;
};
struct BeforeInQueue {
  // Priority, then creation, then id.
  bool operator()(const WaitingJob* a, const WaitingJob* b) const;
};
struct Lane {
  ClusterQueue* queue = nullptr;
  std::set<const WaitingJob*, BeforeInQueue> jobs;
};

struct ClusterQueue {
  QueueConfig config;
  std::array<int64_t, 2> in_use = {};  // slots by cuda
  std::array<int64_t, 2> lent = {};    // of those, what jobs hold above their fewest
  // Slot-seconds by cuda, decayed to `settled`.
  std::array<double, 2> usage = {};
  absl::Duration settled;
};

// Not copyable; thread-compatible. Every call leaves all indexes right.
class Cluster {
 public:
  struct Options {
    absl::Duration half_life = absl::Hours(24);      // of a queue's usage
    absl::Duration start_charge = absl::Minutes(1);  // each start costs its slots so long at once, so that bursts share
  };
  explicit Cluster(Options options);
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  // --- Queues. Jobs may name one that was never configured: it has no quota and weight 1.
  void PutQueue(const QueueConfig& config, absl::Duration now);
  // Adds past use to a queue: `slots` were in use between these times.
  struct PastUse {
    bool cuda = false;
    int64_t slots = 0;
    absl::Duration from, until;
  };
  void AddUse(const std::string& queue, const PastUse& use, absl::Duration now);
  // Decayed use of the slots of the kind, as an average number of slots.
  double AverageUse(const ClusterQueue& queue, bool cuda, absl::Duration now) const;
  // The largest part of a kind of slot that the queue has used of late, over its weight. Lower goes first.
  double Share(const ClusterQueue& queue, absl::Duration now) const;
  // By how much a start on so many slots raises it, at most.
  double StartShare(const ClusterQueue& queue, bool cuda, int64_t slots) const;

  // --- Workers that are connected; anything about one may have changed.
  void PutWorker(const WorkerView& worker);
  void RemoveWorker(const WorkerId& id);

  // --- Jobs. A job waits, or runs, or is not here: each call replaces what was known of it.
  void PutWaiting(const WaitingJob& job, absl::Duration now);
  void PutRunning(const RunningJob& job, absl::Duration now);
  void RemoveJob(const JobId& id, absl::Duration now);

  // --- Looking. `memory`: of the GPU at least; of each rank on CPUs, as one of the jobs here asks for.
  int64_t Total(bool cuda, int64_t memory = 0) const;
  int64_t Free(bool cuda, int64_t memory = 0) const;
  // Whether memory bounds what a connected worker's CPU slots hold.
  bool bounded() const;
  // Of the largest worker with CPU slots, rounded down; kNoBound: one without a bound.
  int64_t LargestMemory() const;
  size_t worker_indices() const { return worker_indices_; }
  int64_t connected_workers() const { return connected_workers_; }
  size_t waiting() const { return waiting_.size(); }
  size_t running() const { return running_.size(); }
  const WaitingJob* FindWaiting(const JobId& id) const;
  const ClusterJob* FindRunning(const JobId& id) const;
  const std::map<std::string, ClusterQueue>& queues() const { return queues_; }
  const std::map<LaneKey, Lane>& lanes() const { return lanes_; }
  std::map<std::pair<bool, int64_t>, SlotClass>& classes() { return classes_; }
  const std::map<std::pair<bool, int64_t>, SlotClass>& classes() const { return classes_; }
  // Jobs that may be preempted.
  using Victims = std::set<const ClusterJob*, LeavesBefore>;
  const Victims& victims() const { return victims_; }
  // Jobs that run with fewer ranks than they could.
  using Short = std::set<const ClusterJob*, GrowsBefore>;
  const Short& short_jobs() const { return short_; }
  // Jobs that could do with fewer ranks.
  using Spare = std::set<const ClusterJob*, LeavesBefore>;
  const Spare& spare_jobs() const { return spare_; }
  // What jobs of at most this priority could spare, or of less would leave if they were preempted, by their requests:
  // never less than what it would come to.
  Room MostToSpare(bool cuda, int64_t priority) const;
  Room MostToPreempt(bool cuda, int64_t priority) const;
  // Null: it is not connected and has no running jobs.
  const ClusterWorker* FindWorker(const WorkerId& id) const;
  // Null: the worker is away or draining, or has no such slot.
  const SlotClass* ClassOfSlot(const ClusterWorker& worker, int32_t slot) const;

  // --- Tentative placements, of the scheduler alone. Takes the `count` lowest free slots of the class, and so much
  // memory for each.
  std::vector<int32_t> Take(ClusterWorker* worker, SlotClass* slots, int64_t count, int64_t memory);
  // Gives back what Take gave.
  void Give(ClusterWorker* worker, SlotClass* slots, const std::vector<int32_t>& indices, int64_t memory);

 private:
  ClusterWorker& WorkerOf(const WorkerId& id);
  void Forget(absl::node_hash_map<WorkerId, ClusterWorker>::iterator worker);
  ClusterQueue* QueueOf(const std::string& name);
  double Decayed(const ClusterQueue& queue, bool cuda, absl::Duration now) const;
  void Settle(ClusterQueue& queue, absl::Duration now) const;
  using FreeSlots = std::map<SlotClass*, std::vector<int32_t>>;
  SlotClass* ClassOf(const ClusterWorker& worker, const SlotView& slot);
  FreeSlots FreeOf(const ClusterWorker& worker, const WorkerView& view);
  void SetFree(ClusterWorker* worker, SlotClass* slots, std::vector<int32_t> indices, int64_t bytes);
  void Connect(ClusterWorker& worker);
  void Disconnect(ClusterWorker& worker);
  void Bucket(ClusterWorker* worker, SlotClass* slots, const Room& before, const Room& after);
  void Count(ClusterJob* job, SlotClass* slots, int64_t change);
  void Hold(ClusterJob* job, ClusterWorker* worker, SlotClass* slots, int64_t change);
  void Drop(ClusterJob* job, ClusterWorker* worker, SlotClass* slots);
  void AddLevel(int64_t memory);
  void UseLevel(int64_t memory);
  void LeaveLevel(int64_t memory);
  void RemoveWaiting(const JobId& id);
  void RemoveRunning(const JobId& id, absl::Duration now);

  const Options options_;
  std::map<std::string, ClusterQueue> queues_;
  std::map<std::pair<bool, int64_t>, SlotClass> classes_;  // by (cuda, memory): ascending memory
  std::map<int64_t, int64_t> levels_;                      // bytes of a rank -> jobs that need the level
  absl::node_hash_map<WorkerId, ClusterWorker> workers_;
  size_t worker_indices_ = 0;
  std::vector<size_t> unused_indices_;
  int64_t connected_workers_ = 0;
  absl::node_hash_map<JobId, WaitingJob> waiting_;
  std::map<LaneKey, Lane> lanes_;  // none is empty
  absl::node_hash_map<JobId, ClusterJob> running_;
  Victims victims_;
  Short short_;
  Spare spare_;
  using RoomByPriority = std::map<int64_t, std::array<Room, 2>>;  // [1] cuda; none is empty
  static void AddRoom(RoomByPriority& rooms, const RunningJob& job, int64_t ranks);
  static Room Sum(const RoomByPriority& rooms, bool cuda, int64_t below);
  RoomByPriority to_spare_, to_preempt_;
};

}  // namespace sab::server
