#include "server/scheduling/scheduling.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "server/scheduling/round.h"

namespace sab::server {
namespace {

// An expected start is worked out for jobs with at most so many before them.
constexpr size_t kMostForecast = 1000;

std::string Size(int64_t bytes) {
  constexpr int64_t kMiB = int64_t{1} << 20, kGiB = int64_t{1} << 30;
  if (bytes < kGiB) return absl::StrCat(bytes / kMiB, " MiB");
  return absl::StrCat(static_cast<double>(bytes * 100 / kGiB) / 100, " GiB");
}

std::string Slots(int64_t count, bool cuda, int64_t memory = 0) {
  std::string with;
  if (memory > 0) with = cuda ? absl::StrCat(" with at least ", memory >> 20, " MiB") : " with " + Size(memory);
  return absl::StrCat(count, cuda ? " cuda" : " cpu", count == 1 ? " slot" : " slots", with);
}

// What to do about a job that asks for more memory than the workers have.
std::string LessMemory(const Wait& wait) {
  if (wait.total > 0) {
    return absl::StrCat("; the connected workers have memory for ", wait.total,
                        " of them in all: add workers, or ask for fewer resources.replicas or less memory");
  }
  return absl::StrCat(
      "; the largest worker has ", Size(wait.largest_memory),
      " for its CPU slots: set model.recompute to on, make train.batch_size or the sequences smaller, "
      "ask for more resources.replicas, add a larger worker (sab-worker --memory), or name what it needs "
      "in resources.memory");
}

// Free slots over time, as far as it is known.
class Profile {
 public:
  Profile(absl::Duration now, int64_t free) { steps_.push_back({now, free}); }

  // From `at` on, `count` more are free.
  void Add(absl::Duration at, int64_t count) {
    if (at == absl::InfiniteDuration()) return;
    for (size_t i = Cut(std::max(at, steps_.front().at)); i < steps_.size(); ++i) steps_[i].free += count;
  }

  // The first moment from which on `need` are free for `length`; infinite: none is known.
  absl::Duration Earliest(int64_t need, absl::Duration length) const {
    absl::Duration start = absl::InfiniteDuration();
    for (const Step& step : steps_) {
      if (start != absl::InfiniteDuration() && step.at >= start + length) return start;
      if (step.free < need) {
        start = absl::InfiniteDuration();
      } else if (start == absl::InfiniteDuration()) {
        start = step.at;
      }
    }
    return start;
  }

  void Use(absl::Duration start, absl::Duration length, int64_t count) {
    Add(start, -count);
    Add(start + length, count);
  }

 private:
  struct Step {
    absl::Duration at;
    int64_t free;
  };
  size_t Cut(absl::Duration at) {
    size_t i = steps_.size();
    while (steps_[i - 1].at > at) --i;
    if (steps_[i - 1].at == at) return i - 1;
    steps_.insert(steps_.begin() + static_cast<std::ptrdiff_t>(i), {at, steps_[i - 1].free});
    return i;
  }
  std::vector<Step> steps_;
};

// When the last of `order` starts if every job gets its slots in that order, or earlier where it delays none before it.
absl::Duration Forecast(const Round& round, const std::vector<const WaitingJob*>& order, absl::Duration now,
                        std::string* unknown) {
  const GangRequest& request = order.back()->request;
  const bool cuda = round.WantsCuda(request);
  const int64_t memory = round.MemoryOf(request, cuda);
  Profile profile(now, round.Foresee(cuda, memory, 0).leaving);
  round.ForEachEnd(cuda, memory, [&](absl::Duration end, int64_t count) {
    if (end > now) profile.Add(end, count);
  });
  // In slots like those that the last one asks for.
  const auto need_of = [&](const WaitingJob& job) {
    const int64_t other = round.MemoryOf(job.request, cuda), count = job.request.least();
    return cuda || memory == 0 ? count : std::max(count, (count * other + memory - 1) / memory);
  };
  absl::Duration start = absl::InfiniteDuration();
  for (const WaitingJob* job : order) {
    if (round.WantsCuda(job->request) != cuda) continue;
    start = profile.Earliest(need_of(*job), job->limit);
    if (start == absl::InfiniteDuration()) {
      *unknown = job == order.back() ? "nobody knows when the jobs that hold the slots end: they have no time_limit"
                                     : absl::StrCat(job->job.name(), ", which goes before, has no known start");
      return start;
    }
    profile.Use(start, job->limit, need_of(*job));
  }
  return start;
}

}  // namespace

std::string Describe(const Wait& wait) {
  const GangRequest& request = wait.job->request;
  const std::string needs = absl::StrCat(request.least() < request.replicas ? "needs at least " : "needs ",
                                         Slots(request.least(), wait.cuda, wait.memory));
  const std::string of_quota = absl::StrCat("queue ", wait.job->queue, " may use ", Slots(wait.quota, wait.cuda));
  switch (wait.kind) {
    case WaitKind::kNoWorker:
      return absl::StrCat(needs, "; no worker is connected: start sab-worker");
    case WaitKind::kTooLarge:
      if (wait.largest_memory > 0) return needs + LessMemory(wait);
      return absl::StrCat(needs, "; the connected workers have ", wait.total,
                          " in all: add workers or ask for fewer resources.replicas",
                          wait.cuda && request.device == v1::DEVICE_KIND_CUDA ? " or resources.device auto" : "");
    case WaitKind::kAboveQuota:
      return absl::StrCat(needs, "; ", of_quota, " at most: ask for fewer resources.replicas or use another queue");
    case WaitKind::kQuota:
    case WaitKind::kQuotaGiven:
      return absl::StrCat("waits for the quota: ", of_quota, " and uses ", wait.in_use, "; ", needs,
                          wait.kind == WaitKind::kQuotaGiven ? "; elastic jobs of the queue give ranks back" : "");
    case WaitKind::kBehindQuota:
      return absl::StrCat("waits behind ", wait.behind->job.name(), ", which has its turn within the quota of queue ",
                          wait.job->queue);
    case WaitKind::kSlots:
    case WaitKind::kShrinking:
    case WaitKind::kPreempting:
      return absl::StrCat(
          "waits for ",
          Slots(std::max<int64_t>(0, request.least() - wait.free), wait.cuda, wait.cuda ? 0 : wait.memory),
          " more: needs ", request.least(), ", ", wait.free, " of ", wait.total, " are free",
          wait.kind == WaitKind::kPreempting  ? "; jobs of lower priority are asked to leave"
          : wait.kind == WaitKind::kShrinking ? "; elastic jobs give slots back"
                                              : "");
    case WaitKind::kBehind:
      return absl::StrCat("waits behind ", wait.behind->job.name(), ", which has its turn at the next free ",
                          wait.cuda ? "cuda" : "cpu", " slots");
  }
  return "";
}

Decision Decide(Cluster* cluster, absl::Duration now, const SchedulingOptions& options) {
  Round round(cluster, now, options);
  while (round.Step() != nullptr) {
  }
  round.Grow();
  return std::move(round.decision());
}

Explanation Explain(Cluster* cluster, const JobId& job, absl::Duration now, const SchedulingOptions& options) {
  SchedulingOptions deep = options;
  deep.depth = std::numeric_limits<size_t>::max();
  std::vector<const WaitingJob*> order;
  Explanation answer;
  {
    Round round(cluster, now, deep);
    while (order.empty() || order.back()->job != job) order.push_back(round.Step());
    answer.position = static_cast<int64_t>(order.size());
    const Decision& decision = round.decision();
    answer.starts_now = !decision.starts.empty() && decision.starts.back().job == job;
    if (!answer.starts_now) answer.wait = decision.waits.back();
  }
  if (answer.starts_now) answer.expected_start = now;
  if (answer.starts_now) return answer;
  const WaitKind kind = answer.wait.kind;
  if (kind == WaitKind::kShrinking || kind == WaitKind::kQuotaGiven) {
    answer.expected_start = now;  // it takes their way out of a step
    return answer;
  }
  const Round fresh(cluster, now, deep);
  if (kind == WaitKind::kNoWorker || kind == WaitKind::kTooLarge || kind == WaitKind::kAboveQuota) {
    answer.unknown = "it cannot start as things are";
  } else if (kind == WaitKind::kQuota || kind == WaitKind::kBehindQuota) {
    answer.unknown = "it waits for the quota of its queue, not for slots";
  } else if (order.size() > kMostForecast) {
    answer.unknown = absl::StrCat("more than ", kMostForecast, " jobs go before it");
  } else {
    answer.expected_start = Forecast(fresh, order, now, &answer.unknown);
  }
  if (kind == WaitKind::kSlots || kind == WaitKind::kPreempting || kind == WaitKind::kBehind) {
    const GangRequest& request = order.back()->request;
    answer.must_end =
        fresh.Foresee(answer.wait.cuda, fresh.MemoryOf(request, answer.wait.cuda), request.least()).must_end;
  }
  return answer;
}

}  // namespace sab::server
