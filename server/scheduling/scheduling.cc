#include "server/scheduling/scheduling.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace sab::server {
namespace {

struct Candidate {
  const WorkerView* worker;
  std::vector<int32_t> free;
};

struct Census {
  int64_t total[2] = {0, 0};  // by cuda
  int64_t free[2] = {0, 0};
  int64_t live_workers = 0;
};

bool IsLive(const WorkerView& worker, absl::Duration now) {
  return now < worker.lease_end;
}

Census Count(absl::Span<const WorkerView> workers, absl::Duration now) {
  Census census;
  for (const WorkerView& worker : workers) {
    if (!IsLive(worker, now)) continue;
    ++census.live_workers;
    for (const SlotView& slot : worker.slots) {
      ++census.total[slot.cuda];
      if (slot.free && worker.accepts) ++census.free[slot.cuda];
    }
  }
  return census;
}

bool WantsCuda(const GangRequest& request, const Census& census) {
  if (request.device == v1::DEVICE_KIND_CUDA) return true;
  if (request.device == v1::DEVICE_KIND_CPU) return false;
  return census.total[1] > 0 && census.total[1] >= request.replicas;
}

std::string Slots(int64_t count, bool cuda) {
  return absl::StrCat(count, cuda ? " cuda" : " cpu", count == 1 ? " slot" : " slots");
}

std::string WaitReason(const GangRequest& request, const Census& census, bool cuda) {
  if (census.live_workers == 0) {
    return absl::StrCat("needs ", Slots(request.replicas, cuda), "; no worker is connected: start sab-worker");
  }
  if (census.total[cuda] < request.replicas) {
    return absl::StrCat("needs ", Slots(request.replicas, cuda), "; the connected workers have ", census.total[cuda],
                        " in all: add workers or ask for fewer resources.replicas",
                        cuda && request.device == v1::DEVICE_KIND_CUDA ? " or resources.device auto" : "");
  }
  return absl::StrCat("waits for ", Slots(request.replicas - census.free[cuda], cuda), " more: needs ",
                      request.replicas, ", ", census.free[cuda], " of ", census.total[cuda], " are free");
}

std::vector<Candidate> Candidates(absl::Span<const WorkerView> workers, absl::Duration now, bool cuda) {
  std::vector<Candidate> candidates;
  for (const WorkerView& worker : workers) {
    if (!worker.accepts || !IsLive(worker, now)) continue;
    Candidate candidate{&worker, {}};
    for (const SlotView& slot : worker.slots) {
      if (slot.free && slot.cuda == cuda) candidate.free.push_back(slot.index);
    }
    if (!candidate.free.empty()) candidates.push_back(std::move(candidate));
  }
  return candidates;
}

std::vector<RankPlacement> Place(std::vector<Candidate> candidates, size_t replicas) {
  const Candidate* whole = nullptr;
  for (const Candidate& candidate : candidates) {
    if (candidate.free.size() < replicas) continue;
    if (whole == nullptr || candidate.free.size() < whole->free.size() ||
        (candidate.free.size() == whole->free.size() && candidate.worker->id < whole->worker->id)) {
      whole = &candidate;
    }
  }
  std::vector<RankPlacement> placements;
  if (whole != nullptr) {
    for (size_t i = 0; i < replicas; ++i) placements.push_back({whole->worker->id, whole->free[i]});
    return placements;
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    if (a.free.size() != b.free.size()) return a.free.size() > b.free.size();
    return a.worker->id < b.worker->id;
  });
  for (const Candidate& candidate : candidates) {
    for (int32_t slot : candidate.free) {
      if (placements.size() < replicas) placements.push_back({candidate.worker->id, slot});
    }
  }
  return placements;
}

void Occupy(const std::vector<RankPlacement>& placements, std::vector<WorkerView>& workers) {
  for (const RankPlacement& placement : placements) {
    for (WorkerView& worker : workers) {
      if (worker.id != placement.worker) continue;
      for (SlotView& slot : worker.slots) {
        if (slot.index == placement.slot) slot.free = false;
      }
    }
  }
}

}  // namespace

GangDecision DecideGang(const GangRequest& request, absl::Span<const WorkerView> workers, absl::Duration now) {
  const Census census = Count(workers, now);
  GangDecision decision;
  decision.cuda = WantsCuda(request, census);
  decision.fits = census.total[decision.cuda] >= request.replicas;
  if (census.free[decision.cuda] < request.replicas) {
    decision.reason = WaitReason(request, census, decision.cuda);
    return decision;
  }
  decision.placements = Place(Candidates(workers, now, decision.cuda), static_cast<size_t>(request.replicas));
  decision.reason = absl::StrCat("starts on ", Slots(request.replicas, decision.cuda));
  return decision;
}

bool RunsBefore(const QueueEntry& a, const QueueEntry& b) {
  if (a.priority != b.priority) return a.priority > b.priority;
  if (a.create_time != b.create_time) return a.create_time < b.create_time;
  return a.job < b.job;
}

std::vector<QueueDecision> DecideQueue(std::vector<QueueEntry> queue, std::vector<WorkerView> workers,
                                       absl::Duration now) {
  std::sort(queue.begin(), queue.end(), RunsBefore);
  std::vector<QueueDecision> decisions;
  decisions.reserve(queue.size());
  JobId waiting[2];  // by cuda: the job that the slots of this kind are kept for
  // What it counts in all, which is what is read here, does not change with placements.
  const Census census = Count(workers, now);
  for (const QueueEntry& entry : queue) {
    const bool cuda = WantsCuda(entry.request, census);
    if (!waiting[cuda].empty() && census.total[cuda] >= entry.request.replicas) {
      decisions.push_back(
          {entry.job,
           {.reason = absl::StrCat("waits behind ", waiting[cuda].name(), ", which has its turn at the next free ",
                                   cuda ? "cuda" : "cpu", " slots"),
            .cuda = cuda,
            .fits = true}});
      continue;
    }
    GangDecision gang = DecideGang(entry.request, workers, now);
    Occupy(gang.placements, workers);
    if (gang.placements.empty() && gang.fits) waiting[gang.cuda] = entry.job;
    decisions.push_back({entry.job, std::move(gang)});
  }
  return decisions;
}

}  // namespace sab::server
