#pragma once

#include <array>
#include <functional>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/scheduling/scheduling.h"

namespace sab::server {

// One run over the waiting jobs, in order, trying placements on the cluster and giving them back at the end. What
// Decide and Explain share.
class Round {
 public:
  Round(Cluster* cluster, absl::Duration now, const SchedulingOptions& options);
  ~Round();
  Round(const Round&) = delete;
  Round& operator=(const Round&) = delete;

  // Looks at the next job in the order of the queue. Null: none is left to look at.
  const WaitingJob* Step();

  // After the last Step: gives jobs that run more ranks, of what nobody waits for.
  void Grow();

  Decision& decision() { return decision_; }
  bool WantsCuda(const GangRequest& request) const;

  // When `need` slots like those of the request come free, going by the running jobs' expected ends.
  struct Outlook {
    absl::Duration at = absl::InfiniteDuration();  // `now` when they only have to be given back
    int64_t spare = 0;                             // slots that will be free then beyond those needed
    int64_t leaving = 0;                           // free, or being given back
    std::vector<JobId> must_end;                   // who is waited for
  };
  // `memory`: of the GPU at least; CPU: of each rank.
  Outlook Foresee(bool cuda, int64_t memory, int64_t need) const;
  // The memory that placing the request on these slots goes by: 0 where it plays no part.
  int64_t MemoryOf(const GangRequest& request, bool cuda) const;
  // When running jobs end, and how many slots like those come free then; soonest first among those of one class.
  void ForEachEnd(bool cuda, int64_t memory, const std::function<void(absl::Duration, int64_t)>& visit) const;

 private:
  static constexpr size_t kMostLookedAround = 2000;

  // Slots kept for the first job that cannot start: of each shape of GPUs, and of all those on CPUs.
  struct Reservation {
    const WaitingJob* job = nullptr;
    absl::Duration at;
    int64_t spare = 0;
    int64_t memory = 0;  // of each of its ranks, on CPUs that share it
  };
  // Requests that the same slots serve.
  struct Shape {
    bool cuda = false;
    int64_t memory = 0;  // of the GPU at least; CPU: of each rank
    int64_t total = 0, free = 0;
    Reservation kept;
  };
  struct ActiveQueue {
    const ClusterQueue* queue = nullptr;
    double share = 0;
    std::array<int64_t, 2> in_use = {};             // with what this round has promised
    std::array<const WaitingJob*, 2> blocked = {};  // the job that waits for the quota
  };
  struct ActiveLane {
    const Lane* lane;
    std::set<const WaitingJob*, BeforeInQueue>::const_iterator next;
    const WaitingJob* job;              // *next
    int64_t priority = 0;               // its own
    size_t queue = 0;                   // index into queues_
    std::array<size_t, 2> shapes = {};  // by cuda: index into shapes_
    size_t looked_at = 0;
  };
  struct Piece {
    ClusterWorker* worker;
    SlotClass* slots;
    int64_t count;
  };
  struct Taken {
    ClusterWorker* worker;
    SlotClass* slots;
    std::vector<int32_t> indices;
    absl::Duration end;
    int64_t memory;  // of each rank on CPU slots
  };

  // What a job lacks to start. None is missing where a number is not above 0.
  struct Missing {
    int64_t slots = 0;  // that serve it, as Rooms counts them
    int64_t ranks = 0;  // within the quota of its queue
    bool any() const { return slots > 0 || ranks > 0; }
  };
  // What an elastic job could do without.
  struct Giving {
    struct Slot {
      const ClusterWorker* worker;
      const SlotClass* of;
      int32_t slot;
    };
    const ClusterJob* job;
    std::vector<Slot> slots;
  };

  // What CPU workers have room for at some moment, in ranks of one size, as it changes from what the indexes say.
  class Rooms {
   public:
    Rooms(const Cluster& cluster, int64_t memory) : cluster_(cluster), memory_(memory) {}
    int64_t memory() const { return memory_; }
    // So much more on the worker (or less): by how many ranks that changes what there is room for.
    int64_t Add(const ClusterWorker& worker, const Room& change);
    // The same of what the job holds on workers of the class.
    int64_t AddJob(const ClusterJob& job, const SlotClass& slots, int64_t sign);

   private:
    const Cluster& cluster_;
    int64_t memory_;
    std::vector<Room> rooms_;  // by the worker's index, of those that have changed
    std::vector<bool> known_;
  };

  size_t ShapeOf(bool cuda, int64_t memory);
  // The one whose reservation stands before jobs of this one that cannot start; its own, if there is none yet.
  const Shape& TurnOf(const Shape& shape) const;
  bool GoesAfter(size_t lane, size_t other) const;
  bool IsHopeless(const ActiveLane& lane) const;
  // True when it starts or never could: it does not count for the depth.
  bool Consider(const ActiveLane& lane);
  bool PassesQuota(ActiveQueue& queue, const Shape& shape, Wait* wait);
  int64_t MostNow(const WaitingJob& job, const ActiveQueue& queue, const Shape& shape) const;
  std::vector<Piece> Plan(const Shape& shape, int64_t need);
  std::vector<Piece> PlanFor(const WaitingJob& job, const Shape& shape, int64_t need, const Reservation** kept);
  const Reservation* SurelyInTheWay(const WaitingJob& job, const Shape& shape) const;
  int64_t SmallestFree(const Shape& shape) const;
  bool IsInVain(int64_t memory, int64_t need) const;
  bool IsClosed(const WaitingJob& job, const Shape& shape) const;
  bool IsGoneBy(const WaitingJob& job, const Reservation& kept) const;
  const Reservation* InTheWay(const WaitingJob& job, const Shape& shape, const std::vector<Piece>& plan);
  // round_memory.cc
  Room RoomAt(const ClusterWorker& worker, absl::Duration at) const;
  int64_t Harm(const Shape& kept, const Piece& piece, int64_t memory) const;
  const Room& SlackOf(const ClusterWorker& worker);
  std::vector<Piece> PlanAround(const Shape& shape, int64_t need);
  int64_t Gain(const SlotClass& slots, const ClusterJob& job, int64_t count, int64_t sign, Rooms* rooms) const;
  int64_t AddTaken(const Taken& taken, int64_t sign, Rooms* rooms) const;
  void AddEnded(const Shape& shape, Rooms* rooms) const;
  void Start(const WaitingJob& job, ActiveQueue& queue, const Shape& shape, const std::vector<Piece>& plan);
  // Takes what was planned.
  std::vector<RankPlacement> Take(const std::vector<Piece>& plan, const Shape& shape, absl::Duration end);
  bool IsLeaving(const JobId& job) const { return !leaving_.empty() && leaving_.contains(job); }
  std::string WhyNotGrow(const ClusterJob& job, const ActiveQueue& queue, const Shape& shape) const;
  void Reserve(ActiveQueue& queue, Shape& shape, Wait* wait);
  WaitKind MakeRoom(const WaitingJob& job, const Shape& shape, int64_t missing);
  std::vector<JobId> FindVictims(const WaitingJob& job, const Shape& shape, int64_t missing, Rooms* rooms);
  // round_shrink.cc. What is given back is counted in `rooms`, and makes `missing` less.
  WaitKind MakeQuota(const ActiveQueue& queue, const WaitingJob& job, const Shape& shape);
  std::vector<Giving> FindSpares(const WaitingJob& job, const Shape& shape, const ClusterQueue* of, Missing* missing,
                                 Rooms* rooms) const;
  Giving FindSpare(const ClusterJob& job, const Shape& shape, Missing* missing, Rooms* rooms) const;
  int64_t GainOf(const Giving& giving, size_t first, int64_t sign, Rooms* rooms) const;
  void GiveBack(const Giving& giving, const JobId& by);

  Cluster* const cluster_;
  const absl::Duration now_;
  const SchedulingOptions options_;
  std::vector<ActiveQueue> queues_;
  std::vector<Shape> shapes_;
  size_t any_cpu_ = 0;                                     // into shapes_: that of all CPU slots
  absl::flat_hash_map<const ClusterWorker*, Room> slack_;  // as SlackOf says, of this round; what changed is erased
  std::vector<std::pair<int64_t, int64_t>> in_vain_;       // memory and ranks that PlanAround found no place for
  size_t looked_around_ = 0;                               // workers that it has looked at
  std::optional<size_t> cpu_turn_;                         // into shapes_: the one that the CPU slots are kept for
  std::vector<ActiveLane> lanes_;
  std::vector<size_t> heap_;  // of indices into lanes_: the one that goes first on top
  size_t lane_depth_ = 0;
  const bool bounded_;  // memory plays a part on CPU slots
  std::vector<Taken> taken_;
  absl::flat_hash_map<const ClusterWorker*, std::vector<size_t>> taken_on_;  // of CPU slots with a bound: into taken_
  std::set<JobId> leaving_;                                                  // victims of this round
  std::set<const ClusterJob*> shrinking_;                                    // give ranks back in this round
  absl::flat_hash_map<const ClusterWorker*, Room> given_;                    // back, by jobs that shrink in this round
  Decision decision_;
};

}  // namespace sab::server
