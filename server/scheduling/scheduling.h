#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/ids.h"
#include "server/scheduling/cluster.h"

// Who runs where: a function of (cluster, now) and nothing else. docs/SCHEDULING.md states the rules and what they
// guarantee.
namespace sab::server {

struct SchedulingOptions {
  absl::Duration min_run_time = absl::Minutes(1);   // an attempt is not preempted before
  absl::Duration resize_after = absl::Seconds(10);  // from the start of an attempt until it may get other ranks
  // While nobody knows when the slots of a waiting job come free, jobs with at most this time limit may pass it.
  absl::Duration blind_backfill = absl::Minutes(10);
  // Jobs that cannot start are looked at in one round until there were so many (spread evenly over queues and kinds of
  // requests, of each at least a few). Those that no worker or quota could ever hold do not count. The largest number:
  // until all were.
  size_t depth = 256;
};

// Why a job does not start now.
enum class WaitKind {
  kNoWorker,     // nobody is connected
  kTooLarge,     // more slots, or slots with more memory, than the connected workers have
  kAboveQuota,   // more slots than its queue may ever use
  kQuota,        // its queue uses what it may
  kQuotaGiven,   // the same, and elastic jobs of the queue give ranks back
  kBehindQuota,  // `behind`, of the same queue, waits for the quota
  kSlots,        // it has its turn when slots come free: they are kept for it
  kShrinking,    // the same, and elastic jobs give slots back
  kPreempting,   // the same, and jobs of lower priority have been asked to leave
  kBehind,       // the slots are kept for `behind`, and it might delay that one
};

// Points into the cluster: good until one of its jobs changes.
struct Wait {
  const WaitingJob* job = nullptr;
  WaitKind kind = WaitKind::kSlots;
  bool cuda = false;            // the kind of slots it waits for
  int64_t free = 0, total = 0;  // of those that it may use
  int64_t memory = 0;           // of each: of the GPU at least; 0: any
  int64_t largest_memory = 0;   // kTooLarge for its memory, not for its number: of the largest worker's CPU slots
  int64_t quota = 0, in_use = 0;
  const WaitingJob* behind = nullptr;
};
// In words that a user can act on.
std::string Describe(const Wait& wait);

struct Placed {
  JobId job;
  bool cuda = false;
  std::vector<RankPlacement> placements;
};

// A job that runs gets more ranks, or why it does not.
struct Growth {
  JobId job;
  int64_t ranks = 0, wanted = 0;     // now; at most
  std::vector<RankPlacement> added;  // empty: it stays as it is
  std::string reason;                // of that, in words: "no free slot"
};

// An elastic job that runs gives ranks back, and goes on with the others.
struct Shrink {
  JobId job;
  JobId by;                          // who waits for the slots, or for their part of the quota
  std::vector<RankPlacement> given;  // of its placements
};

struct Preemption {
  JobId victim;
  JobId by;
};

struct Decision {
  std::vector<Placed> starts;           // in the order of the queue
  std::vector<Preemption> preemptions;  // these are to be asked to leave, with a checkpoint
  std::vector<Shrink> shrinks;          // these give slots back
  std::vector<Wait> waits;              // of those that were looked at
  std::vector<Growth> growths;          // of all jobs that run with fewer ranks than they could
};

// One round: what starts now, and who must leave. `cluster` is used to try placements and is as it was on return: the
// caller carries the decision out and tells the cluster. The same cluster at the same `now` gives the same decision.
//
// Order: priority, then the queue's share, then creation, then id. All ranks of a job are placed or none; `auto` means
// GPUs when the connected workers have enough of them, busy or not. A worker that holds the whole gang is preferred,
// the one with the fewest free slots, then the lower id; else the workers with most free slots. GPUs with less memory
// are taken first.
//
// Elastic jobs start with as many ranks as there are slots for, and are treated by the fewest in all else. One that
// runs grows into slots that no job waits for, in the order of priority, then start, then id; and it gives ranks above
// its fewest back to the job that has its turn, or to the first that waits for the quota of the same queue, if that one
// has no lower priority and can start with them.
Decision Decide(Cluster* cluster, absl::Duration now, const SchedulingOptions& options);

// What `sabctl explain` shows about a waiting job.
struct Explanation {
  int64_t position = 0;  // in the order of the queue, from 1
  bool starts_now = false;
  Wait wait;                    // unless it starts now
  std::vector<JobId> must_end;  // running jobs whose slots it waits for, soonest first; at most 8
  absl::Duration expected_start = absl::InfiniteDuration();  // monotonic; infinite: unknown
  std::string unknown;                                       // why it is unknown
};
// From the same round as Decide, without a limit of depth. `job` waits.
Explanation Explain(Cluster* cluster, const JobId& job, absl::Duration now, const SchedulingOptions& options);

}  // namespace sab::server
