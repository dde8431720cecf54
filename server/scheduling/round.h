#pragma once

#include <array>
#include <optional>
#include <utility>
#include <vector>

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
  Outlook Foresee(bool cuda, int64_t min_memory, int64_t need) const;

 private:
  // Slots kept for the first job of a shape that cannot start.
  struct Reservation {
    const WaitingJob* job = nullptr;
    absl::Duration at;
    int64_t spare = 0;
  };
  // Requests that the same slots serve.
  struct Shape {
    bool cuda = false;
    int64_t min_memory = 0;
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
  };

  size_t ShapeOf(bool cuda, int64_t min_memory);
  bool GoesAfter(size_t lane, size_t other) const;
  bool IsHopeless(const ActiveLane& lane) const;
  // True when it starts or never could: it does not count for the depth.
  bool Consider(const ActiveLane& lane);
  bool PassesQuota(ActiveQueue& queue, Wait* wait);
  int64_t MostNow(const WaitingJob& job, const ActiveQueue& queue, const Shape& shape) const;
  std::vector<Piece> Plan(const Shape& shape, int64_t need);
  const Reservation* InTheWay(const WaitingJob& job, const Shape& shape, const std::vector<Piece>& plan);
  void Start(const WaitingJob& job, ActiveQueue& queue, const Shape& shape, const std::vector<Piece>& plan);
  // Takes what was planned.
  std::vector<RankPlacement> Take(const std::vector<Piece>& plan, absl::Duration end);
  std::string WhyNotGrow(const ClusterJob& job, const ActiveQueue& queue, const Shape& shape) const;
  void Reserve(ActiveQueue& queue, Shape& shape, Wait* wait);
  std::vector<JobId> FindVictims(const WaitingJob& job, const Shape& shape, int64_t missing);

  Cluster* const cluster_;
  const absl::Duration now_;
  const SchedulingOptions options_;
  std::vector<ActiveQueue> queues_;
  std::vector<Shape> shapes_;
  std::vector<ActiveLane> lanes_;
  std::vector<size_t> heap_;  // of indices into lanes_: the one that goes first on top
  size_t lane_depth_ = 0;
  std::vector<Taken> taken_;
  std::set<JobId> leaving_;  // victims of this round
  Decision decision_;
};

}  // namespace sab::server
