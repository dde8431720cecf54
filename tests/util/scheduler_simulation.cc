#include "tests/util/scheduler_simulation.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <queue>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/memory_sizes.h"

namespace sab::testing_util {
namespace {

using server::Cluster;
using server::Decision;
using server::WaitKind;

constexpr absl::Duration kGiveBack = absl::Milliseconds(50);  // from a job's end until its slots are free
constexpr absl::Duration kCheckpoint = absl::Seconds(5);      // from being asked to leave until a job has left
constexpr absl::Duration kOutage = absl::Minutes(10);
constexpr int kNobody = -1, kReleasing = -2;
constexpr size_t kMostViolations = 20;
constexpr int64_t kGiB = int64_t{1} << 30;

enum class State { kAbsent, kWaiting, kRunning, kFinished };

struct SimJob {
  server::WaitingJob spec;
  bool preemptible = false;
  bool estimated = false;  // without a limit, its end is known roughly
  absl::Duration left;     // true duration that is left
  double estimate = 1;     // of `left`, as a factor
  State state = State::kAbsent;
  absl::Duration since;  // waits or runs
  int attempt = 0;
  bool stopping = false;
  bool cuda = false;
  std::vector<server::RankPlacement> placements;
};

struct SimWorker {
  server::WorkerView view;
  std::vector<int> owner;     // by slot: a job, kNobody or kReleasing
  std::vector<int64_t> held;  // by slot: bytes of the machine's memory, until it is free again
  bool connected = true;
};

struct Event {
  enum Kind { kArrive, kEnd, kLeft, kFree, kLose, kReturn, kSettled };
  absl::Duration at;
  int64_t order = 0;
  Kind kind = kArrive;
  int subject = 0;  // job or worker
  int attempt = 0;
  std::vector<server::RankPlacement> slots;
  bool operator>(const Event& other) const { return std::tie(at, order) > std::tie(other.at, other.order); }
};

class Simulation {
 public:
  explicit Simulation(const SimulationOptions& options)
      : options_(options), random_(options.seed), cluster_(Cluster::Options{}) {}

  SimulationReport Run() {
    MakeQueues();
    MakeWorkers();
    MakeJobs();
    ScheduleLoss();
    while (report_.finished < options_.jobs && !events_.empty()) {
      Account(events_.top().at);
      now_ = events_.top().at;
      while (!events_.empty() && events_.top().at == now_) {
        const Event event = events_.top();
        events_.pop();
        Handle(event);
      }
      Decide();
    }
    if (report_.finished < options_.jobs) Violate(absl::StrCat(options_.jobs - report_.finished, " jobs are lost"));
    report_.span = now_;
    if (demanded_ > 0) report_.utilisation = used_ / demanded_;
    return std::move(report_);
  }

 private:
  // --- What is drawn.
  int64_t Draw(int64_t low, int64_t high) { return low + static_cast<int64_t>(random_() % (high - low + 1)); }
  bool Chance(int percent) { return Draw(1, 100) <= percent; }
  absl::Duration DrawDuration(absl::Duration low, absl::Duration high) {
    return absl::Seconds(Draw(absl::ToInt64Seconds(low), absl::ToInt64Seconds(high)));
  }

  void MakeQueues() {
    queues_ = {{.name = "default"}};
    if (!options_.one_priority) {
      queues_.push_back({.name = "big", .weight = 3});
      queues_.push_back({.name = "small", .weight = 1});
      const int64_t slots = int64_t{options_.workers} * options_.slots_per_worker;
      queues_.push_back(
          {.name = "bounded", .quota = {std::max<int64_t>(2, slots / 4), std::max<int64_t>(2, slots / 4)}});
    }
    for (const server::QueueConfig& queue : queues_) cluster_.PutQueue(queue, now_);
  }

  void MakeWorkers() {
    workers_.resize(options_.workers);
    for (int i = 0; i < options_.workers; ++i) {
      SimWorker& worker = workers_[i];
      worker.view.id = WorkerId(absl::StrCat("w", i));
      const bool cuda = options_.mixed_hardware && i % 4 != 3;
      // Of two sizes, and one worker of nine does not say.
      const int64_t share = !options_.memory || i % 9 == 8 ? 0 : (i % 8 == 3 ? 4 : 6) * kGiB;
      for (int slot = 0; slot < options_.slots_per_worker; ++slot) {
        worker.view.slots.push_back({slot, cuda, true, cuda ? (i % 4 == 0 ? 80 : 24) * kGiB : share});
      }
      worker.owner.assign(options_.slots_per_worker, kNobody);
      worker.held.assign(options_.slots_per_worker, 0);
      by_id_[worker.view.id] = i;
      cluster_.PutWorker(worker.view);
    }
  }

  // Most jobs are small; some take a fourth of the slots of their kind.
  int64_t DrawReplicas(int64_t most) {
    if (Chance(3)) return most;
    if (Chance(12)) return Draw(std::min<int64_t>(8, most), std::min<int64_t>(64, most));
    return std::min<int64_t>(most, int64_t{1} << Draw(0, 3));
  }

  void MakeJobs() {
    jobs_.resize(options_.jobs);
    for (int i = 0; i < options_.jobs; ++i) {
      SimJob& job = jobs_[i];
      job.spec.job = JobId(absl::StrCat("j", i));
      job.spec.create_time = i;
      by_job_[job.spec.job] = i;
      job.left = DrawDuration(absl::Seconds(20), options_.longest_job);
      server::GangRequest& request = job.spec.request;
      if (options_.mixed_hardware) {
        const int64_t kind = Draw(0, 3);
        request.device = kind == 0 ? v1::DEVICE_KIND_CPU : kind == 1 ? v1::DEVICE_KIND_AUTO : v1::DEVICE_KIND_CUDA;
        if (kind == 3) request.min_gpu_memory = 40 * kGiB;
      }
      const int64_t slots = int64_t{options_.workers} * options_.slots_per_worker;
      request.replicas = DrawReplicas(std::max<int64_t>(1, slots / (options_.mixed_hardware ? 8 : 2)));
      if (options_.memory && request.device != v1::DEVICE_KIND_CUDA) request.memory = DrawMemory();
      if (!options_.one_priority) {
        job.spec.priority = Draw(0, 4) * 20;
        job.spec.queue = queues_[Draw(0, static_cast<int64_t>(queues_.size()) - 1)].name;
        if (job.spec.queue == "bounded") request.replicas = std::min(request.replicas, *queues_.back().quota[0]);
      }
      request.replicas = std::min(request.replicas, MostRanks(request.memory));
      if (options_.elastic_percent > 0 && Chance(options_.elastic_percent)) MakeElastic(request);
      job.preemptible = job.spec.priority < 25;
      if (Chance(60)) job.spec.limit = job.left * Draw(10, 30) / 10;
      job.estimated = Chance(50);
      job.estimate = static_cast<double>(Draw(7, 14)) / 10;
      Push(Event{.at = options_.arrivals * i / options_.jobs, .kind = Event::kArrive, .subject = i});
    }
  }

  // Most jobs are content with their slot's part of the smaller worker, a few need nearly all of it.
  int64_t DrawMemory() {
    constexpr int64_t kMiB = int64_t{1} << 20;
    constexpr int64_t kSizes[] = {0, 256, 512, 768, 1024, 1536, 2048, 2048, 3072, 4096, 6144, 8192, 12288, 16384};
    return std::min(kSizes[Draw(0, std::size(kSizes) - 1)], int64_t{4096} * options_.slots_per_worker) * kMiB;
  }

  // How many ranks of so many bytes all CPU workers hold, so that no job waits for ever.
  int64_t MostRanks(int64_t memory) {
    if (memory == 0) return std::numeric_limits<int64_t>::max();
    int64_t ranks = 0;
    for (const SimWorker& worker : workers_) {
      int64_t bytes = 0, slots = 0;
      for (const server::SlotView& slot : worker.view.slots) {
        slots += !slot.cuda;
        bytes += slot.cuda ? 0 : slot.memory_bytes;
      }
      ranks += bytes == 0 ? slots : std::min(slots, bytes / memory);
    }
    return ranks;
  }

  void MakeElastic(server::GangRequest& request) {
    request.min_replicas = Draw(1, request.replicas);
    request.powers_of_two = Chance(30);
    if (!request.powers_of_two) return;
    request.replicas = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(request.replicas)));
    request.min_replicas = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(request.min_replicas)));
  }

  void ScheduleLoss() {
    if (options_.losses_per_hour <= 0) return;
    const double mean = 3600 / options_.losses_per_hour;
    const absl::Duration wait = absl::Seconds(Draw(1, static_cast<int64_t>(2 * mean)));
    Push(Event{.at = now_ + wait, .kind = Event::kLose, .subject = static_cast<int>(Draw(0, options_.workers - 1))});
  }

  // --- What happens.
  void Push(Event event) {
    event.order = ++order_;
    events_.push(std::move(event));
  }

  void Handle(const Event& event) {
    switch (event.kind) {
      case Event::kArrive:
        return Queue(jobs_[event.subject]);
      case Event::kEnd:
      case Event::kLeft: {
        SimJob& job = jobs_[event.subject];
        if (job.state == State::kRunning && job.attempt == event.attempt) Leave(job, event.kind == Event::kEnd);
        return;
      }
      case Event::kFree:
        return Free(event.slots);
      case Event::kLose:
        return Lose(event.subject);
      case Event::kReturn:
        workers_[event.subject].connected = true;
        return Tell({event.subject});
      case Event::kSettled:
        return;
    }
  }

  void Queue(SimJob& job) {
    job.state = State::kWaiting;
    job.since = now_;
    Timed([&] { cluster_.PutWaiting(job.spec, now_); });
  }

  // The slots are given back soon.
  void Release(const SimJob& job, const std::vector<server::RankPlacement>& slots) {
    const auto count = static_cast<int64_t>(slots.size());
    in_use_[{job.spec.queue, job.cuda}] -= count;
    for (const server::RankPlacement& place : slots) {
      int& owner = workers_[by_id_.at(place.worker)].owner[place.slot];
      if (owner == by_job_.at(job.spec.job)) owner = kReleasing;
    }
    Push(Event{.at = now_ + kGiveBack, .kind = Event::kFree, .slots = slots});
    busy_ -= count;
  }

  void Leave(SimJob& job, bool finished) {
    Release(job, job.placements);
    job.placements.clear();
    job.stopping = false;
    Timed([&] { cluster_.RemoveJob(job.spec.job, now_); });
    if (finished) {
      job.state = State::kFinished;
      ++report_.finished;
      return;
    }
    job.left = std::max(absl::Seconds(1), job.left - (now_ - job.since) * 0.9);
    if (job.spec.limit < absl::InfiniteDuration()) job.spec.limit = std::max(job.spec.limit, job.left);
    Queue(job);
  }

  void Free(const std::vector<server::RankPlacement>& slots) {
    std::set<int> changed;
    for (const server::RankPlacement& place : slots) {
      SimWorker& worker = workers_[by_id_.at(place.worker)];
      if (worker.owner[place.slot] != kReleasing) continue;
      worker.owner[place.slot] = kNobody;
      worker.held[place.slot] = 0;
      changed.insert(by_id_.at(place.worker));
    }
    Tell(changed);
  }

  void Lose(int index) {
    ScheduleLoss();
    SimWorker& worker = workers_[index];
    if (!worker.connected) return;
    ++report_.worker_losses;
    worker.connected = false;
    Timed([&] { cluster_.RemoveWorker(worker.view.id); });
    const std::set<int> owners(worker.owner.begin(), worker.owner.end());
    for (int owner : owners) {
      if (owner >= 0 && !Shrink(jobs_[owner], worker.view.id)) Leave(jobs_[owner], /*finished=*/false);
    }
    std::fill(worker.owner.begin(), worker.owner.end(), kNobody);
    std::fill(worker.held.begin(), worker.held.end(), 0);
    Push(Event{.at = now_ + kOutage, .kind = Event::kReturn, .subject = index});
  }

  // Goes on without its ranks on a worker. False: it cannot.
  bool Shrink(SimJob& job, const WorkerId& lost) {
    std::vector<server::RankPlacement> rest, gone;
    for (const server::RankPlacement& place : job.placements) (place.worker == lost ? gone : rest).push_back(place);
    const auto count = static_cast<size_t>(job.spec.request.MostOf(static_cast<int64_t>(rest.size())));
    if (count == 0 || job.stopping) return false;
    gone.insert(gone.end(), rest.begin() + static_cast<std::ptrdiff_t>(count), rest.end());
    rest.resize(count);
    Release(job, gone);
    job.placements = std::move(rest);
    GoOn(job);
    ++report_.shrinks;
    return true;
  }

  // In a new attempt, with other ranks.
  void GoOn(SimJob& job) {
    const absl::Duration ran = now_ - job.since;
    job.left = std::max(absl::Seconds(1), job.left - ran);
    if (job.spec.limit < absl::InfiniteDuration()) job.spec.limit = std::max(absl::Seconds(1), job.spec.limit - ran);
    job.since = now_;
    ++job.attempt;
    AwaitEnd(job);
    PutRunning(job);
  }

  void AwaitEnd(const SimJob& job) {
    const int subject = by_job_.at(job.spec.job);
    const absl::Duration runs = std::min(job.left, job.spec.limit);
    Push(Event{.at = now_ + runs, .kind = Event::kEnd, .subject = subject, .attempt = job.attempt});
    if (job.spec.request.min_replicas > 0)
      Push(Event{.at = now_ + scheduling_.resize_after, .kind = Event::kSettled, .subject = subject});
  }

  // Tells the scheduler the present state of workers.
  void Tell(const std::set<int>& changed) {
    for (int index : changed) {
      SimWorker& worker = workers_[index];
      for (server::SlotView& slot : worker.view.slots) {
        slot.free = worker.owner[slot.index] == kNobody;
        slot.held_bytes = worker.held[slot.index];
      }
    }
    Timed([&] {
      for (int index : changed) {
        if (workers_[index].connected) cluster_.PutWorker(workers_[index].view);
      }
    });
  }

  // --- What is decided.
  void Decide() {
    if (cluster_.waiting() == 0 && cluster_.short_jobs().empty()) return;
    report_.most_waiting = std::max(report_.most_waiting, static_cast<int64_t>(cluster_.waiting()));
    const int64_t free[] = {cluster_.Free(false), cluster_.Free(true)};
    const double before = report_.scheduling_seconds;
    Decision decision;
    Timed([&] { decision = server::Decide(&cluster_, now_, scheduling_); });
    if (free[0] != cluster_.Free(false) || free[1] != cluster_.Free(true)) Violate("Decide changed the cluster");
    ++report_.rounds;
    if (options_.check) CheckOrder(decision);
    if (options_.check) CheckHeads(decision);
    if (options_.check) CheckGrowths(decision);
    if (options_.check) CheckShrinks(decision);
    for (const server::Placed& placed : decision.starts) Start(placed);
    for (const server::Shrink& shrink : decision.shrinks) GiveBack(shrink);
    for (const server::Growth& growth : decision.growths) Grow(growth);
    for (const server::Preemption& preemption : decision.preemptions) Preempt(preemption);
    report_.round_seconds.push_back(report_.scheduling_seconds - before);
  }

  void Start(const server::Placed& placed) {
    SimJob& job = jobs_[by_job_.at(placed.job)];
    if (job.state != State::kWaiting) return Violate(absl::StrCat(placed.job.name(), " is started but does not wait"));
    const auto count = static_cast<int64_t>(placed.placements.size());
    if (count == 0 || job.spec.request.MostOf(count) != count) {
      return Violate(absl::StrCat(placed.job.name(), " is started with a number of ranks that it may not have"));
    }
    job.state = State::kRunning;
    report_.wait_seconds[static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(placed.placements.size())))]
        .push_back(absl::ToDoubleSeconds(now_ - job.since));
    job.since = now_;
    job.cuda = placed.cuda;
    job.placements = placed.placements;
    ++job.attempt;
    ++report_.starts;
    report_.ranks += count;
    Occupy(job, job.placements);
    Mix(by_job_.at(placed.job));
    AwaitEnd(job);
    PutRunning(job);
  }

  void Grow(const server::Growth& growth) {
    if (growth.added.empty()) return;
    SimJob& job = jobs_[by_job_.at(growth.job)];
    job.placements.insert(job.placements.end(), growth.added.begin(), growth.added.end());
    const auto count = static_cast<int64_t>(job.placements.size());
    if (job.spec.request.MostOf(count) != count) {
      Violate(absl::StrCat(growth.job.name(), " grows to a number of ranks that it may not have"));
    }
    Occupy(job, growth.added);
    Mix(-2 * by_job_.at(growth.job));
    GoOn(job);
    ++report_.growths;
  }

  void GiveBack(const server::Shrink& shrink) {
    SimJob& job = jobs_[by_job_.at(shrink.job)];
    for (const server::RankPlacement& place : shrink.given) {
      const auto it = std::find_if(job.placements.begin(), job.placements.end(), [&](const auto& mine) {
        return mine.worker == place.worker && mine.slot == place.slot;
      });
      if (it == job.placements.end()) return Violate(shrink.job.name() + " gives back what it does not have");
      job.placements.erase(it);
      Mix(by_id_.at(place.worker) * 4096 + place.slot);
    }
    const auto count = static_cast<int64_t>(job.placements.size());
    if (count == 0 || job.spec.request.MostOf(count) != count) {
      Violate(absl::StrCat(shrink.job.name(), " shrinks to a number of ranks that it may not have"));
    }
    Release(job, shrink.given);
    GoOn(job);
    ++report_.given_back;
  }

  // The job gets `slots`, which are among its placements.
  void Occupy(const SimJob& job, const std::vector<server::RankPlacement>& slots) {
    busy_ += static_cast<int64_t>(slots.size());
    in_use_[{job.spec.queue, job.cuda}] += static_cast<int64_t>(slots.size());
    if (options_.check) CheckQuota(job);
    std::set<int> changed;
    for (const server::RankPlacement& place : slots) {
      const int index = by_id_.at(place.worker);
      SimWorker& worker = workers_[index];
      const server::SlotView& slot = worker.view.slots[place.slot];
      Mix(index * 4096 + place.slot);
      if (!worker.connected) Violate(absl::StrCat(job.spec.job.name(), " is placed on a worker that is away"));
      if (worker.owner[place.slot] != kNobody) {
        Violate(absl::StrCat(job.spec.job.name(), " is placed on a slot that is taken"));
      }
      if (slot.cuda != job.cuda || (slot.cuda && slot.memory_bytes < job.spec.request.min_gpu_memory)) {
        Violate(absl::StrCat(job.spec.job.name(), " is placed on a slot of the wrong kind"));
      }
      worker.owner[place.slot] = by_job_.at(job.spec.job);
      worker.held[place.slot] = job.cuda ? 0 : job.spec.request.memory;
      if (options_.check) CheckMemory(job, worker);
      changed.insert(index);
    }
    Tell(changed);
  }

  void PutRunning(const SimJob& job) {
    server::RunningJob running{.job = job.spec.job,
                               .queue = job.spec.queue,
                               .priority = job.spec.priority,
                               .preemptible = job.preemptible,
                               .cuda = job.cuda,
                               .memory = job.cuda ? 0 : job.spec.request.memory,
                               .start = job.since,
                               .stopping = job.stopping,
                               .placements = job.placements,
                               .request = job.spec.request,
                               .may_resize = job.since + scheduling_.resize_after};
    if (job.estimated) running.expected_end = job.since + job.left * job.estimate;
    running.expected_end = std::min(running.expected_end, job.since + job.spec.limit);
    if (job.stopping) running.expected_end = now_;
    Timed([&] { cluster_.PutRunning(running, now_); });
  }

  void Preempt(const server::Preemption& preemption) {
    SimJob& victim = jobs_[by_job_.at(preemption.victim)];
    const SimJob& by = jobs_[by_job_.at(preemption.by)];
    ++report_.preemptions;
    Mix(-by_job_.at(preemption.victim));
    if (victim.state != State::kRunning || victim.stopping || !victim.preemptible ||
        victim.spec.priority >= by.spec.priority || now_ - victim.since < scheduling_.min_run_time) {
      Violate(absl::StrCat(preemption.victim.name(), " may not be preempted"));
    }
    victim.stopping = true;
    Push(Event{.at = now_ + kCheckpoint,
               .kind = Event::kLeft,
               .subject = by_job_.at(preemption.victim),
               .attempt = victim.attempt});
    PutRunning(victim);
  }

  // --- What must hold.
  void Violate(const std::string& text) {
    if (report_.violations.size() < kMostViolations) {
      report_.violations.push_back(
          absl::StrCat("seed ", options_.seed, " at ", absl::FormatDuration(now_), ": ", text));
    }
  }

  void CheckMemory(const SimJob& job, const SimWorker& worker) {
    int64_t has = 0, asked = 0;
    for (const server::SlotView& slot : worker.view.slots) has += slot.cuda ? 0 : slot.memory_bytes;
    for (const int64_t bytes : worker.held) asked += bytes;
    if (has > 0 && asked > has) {
      Violate(absl::StrCat(job.spec.job.name(), " gets memory that ", worker.view.id.name(), " does not have"));
    }
  }

  void CheckQuota(const SimJob& job) {
    const int64_t used = in_use_[{job.spec.queue, job.cuda}];
    for (const server::QueueConfig& queue : queues_) {
      if (queue.name != job.spec.queue || !queue.quota[job.cuda].has_value()) continue;
      if (used > *queue.quota[job.cuda]) Violate(absl::StrCat("queue ", queue.name, " is above its quota"));
    }
  }

  // Nobody starts whose slots would do for a waiting job of higher priority that asks for no more, for no longer.
  void CheckOrder(const Decision& decision) {
    std::set<JobId> started;
    for (const server::Placed& placed : decision.starts) started.insert(placed.job);
    for (const server::Placed& placed : decision.starts) {
      const server::WaitingJob& job = jobs_[by_job_.at(placed.job)].spec;
      for (const SimJob& other : jobs_) {
        const server::WaitingJob& passed = other.spec;
        const bool could =
            other.state == State::kWaiting && !started.contains(passed.job) && passed.priority > job.priority &&
            passed.queue != "bounded" && passed.request.least() <= static_cast<int64_t>(placed.placements.size()) &&
            passed.limit <= job.limit && passed.request.device == job.request.device &&
            passed.request.min_gpu_memory <= job.request.min_gpu_memory && passed.request.memory <= job.request.memory;
        if (could) Violate(absl::StrCat(job.job.name(), " starts before ", passed.job.name(), " of higher priority"));
      }
    }
  }

  // Who grows runs, has settled, and takes nothing that somebody waits for.
  void CheckGrowths(const Decision& decision) {
    std::set<JobId> started;
    for (const server::Placed& placed : decision.starts) started.insert(placed.job);
    for (const server::Growth& growth : decision.growths) {
      const SimJob& job = jobs_[by_job_.at(growth.job)];
      if (growth.added.empty() == growth.reason.empty()) Violate(growth.job.name() + " neither grows nor has a reason");
      if (growth.added.empty()) continue;
      if (job.state != State::kRunning || job.stopping || now_ < job.since + scheduling_.resize_after) {
        Violate(growth.job.name() + " may not grow");
      }
      for (const SimJob& other : jobs_) {
        const server::GangRequest& request = other.spec.request;
        const bool waits =
            other.state == State::kWaiting && !started.contains(other.spec.job) && other.spec.queue != "bounded" &&
            request.device == (job.cuda ? v1::DEVICE_KIND_CUDA : v1::DEVICE_KIND_CPU) &&
            request.least() <= cluster_.Total(job.cuda, job.cuda ? request.min_gpu_memory : request.memory);
        if (waits) Violate(absl::StrCat(growth.job.name(), " grows while ", other.spec.job.name(), " waits"));
      }
    }
  }

  // Who gives ranks back runs, has settled, and does it for a job of no lower priority, which waits for slots.
  void CheckShrinks(const Decision& decision) {
    std::set<JobId> once;
    for (const server::Shrink& shrink : decision.shrinks) {
      const SimJob& job = jobs_[by_job_.at(shrink.job)];
      const SimJob& by = jobs_[by_job_.at(shrink.by)];
      if (!once.insert(shrink.job).second) Violate(shrink.job.name() + " shrinks twice");
      const bool may = job.state == State::kRunning && !job.stopping && now_ >= job.since + scheduling_.resize_after &&
                       job.spec.priority <= by.spec.priority && by.state == State::kWaiting && !shrink.given.empty();
      const bool waits = std::any_of(decision.waits.begin(), decision.waits.end(), [&](const server::Wait& wait) {
        const bool within = wait.kind == WaitKind::kQuotaGiven && job.spec.queue == by.spec.queue;
        return wait.job->job == shrink.by &&
               (within || wait.kind == WaitKind::kShrinking || wait.kind == WaitKind::kPreempting);
      });
      if (!may || !waits) Violate(shrink.job.name() + " may not shrink");
    }
    if (decision.shrinks.empty() && decision.preemptions.empty() && decision.starts.empty()) CheckSpare(decision);
  }

  // The job that has its turn does not wait for slots that elastic jobs could spare, nor the first that waits for the
  // quota of its queue for what those of the queue could.
  void CheckSpare(const Decision& decision) {
    std::set<bool> turns;  // by cuda
    for (const server::Wait& wait : decision.waits) {
      const bool quota = wait.kind == WaitKind::kQuota && !turns.contains(wait.cuda);
      if (wait.kind == WaitKind::kSlots || wait.kind == WaitKind::kBehind) turns.insert(wait.cuda);
      if ((wait.kind != WaitKind::kSlots && !quota) || wait.memory != 0) continue;
      int64_t leaving = cluster_.Total(wait.cuda), spare = 0;
      for (const SimJob& job : jobs_) {
        if (job.state != State::kRunning || job.cuda != wait.cuda) continue;
        const auto held = std::count_if(
            job.placements.begin(), job.placements.end(),
            [&](const server::RankPlacement& place) { return workers_[by_id_.at(place.worker)].connected; });
        const server::RunningJob& known = cluster_.FindRunning(job.spec.job)->view;
        if (known.expected_end > now_) leaving -= held;
        if (known.expected_end <= now_ || now_ < job.since + scheduling_.resize_after) continue;
        if (job.spec.request.min_replicas == 0 || job.spec.priority > wait.job->priority) continue;
        if (quota && job.spec.queue != wait.job->queue) continue;
        spare += std::min(held, std::max<int64_t>(0, known.ranks() - job.spec.request.least()));
      }
      const int64_t need = wait.job->request.least();
      if (!quota && leaving < need && leaving + spare >= need)
        Violate(wait.job->job.name() + " waits for slots that are to spare");
      if (quota && leaving + spare >= need && wait.in_use - spare + need <= wait.quota)
        Violate(wait.job->job.name() + " waits for a part of its queue's quota that is to spare");
    }
  }

  // A job that has its turn starts within a bound: what runs ends, and what passes it does not put it off.
  void CheckHeads(const Decision& decision) {
    std::map<JobId, absl::Duration> heads;
    for (const server::Wait& wait : decision.waits) {
      if (wait.kind != WaitKind::kSlots && wait.kind != WaitKind::kShrinking && wait.kind != WaitKind::kPreempting)
        continue;
      const JobId& job = wait.job->job;
      if (wait.free >= wait.job->request.least() && wait.kind == WaitKind::kSlots)
        Violate(job.name() + " waits for free slots");
      const auto before = heads_.find(job);
      heads[job] = before == heads_.end() ? now_ : before->second;
      const absl::Duration bound = 3 * options_.longest_job + 2 * kOutage + scheduling_.blind_backfill;
      if (now_ - heads[job] > bound) {
        Violate(absl::StrCat(job.name(), " has had its turn for ", absl::FormatDuration(now_ - heads[job]),
                             " and does not start"));
      }
    }
    heads_ = std::move(heads);
  }

  void Account(absl::Duration until) {
    if (cluster_.waiting() == 0) return;
    const double seconds = absl::ToDoubleSeconds(until - now_);
    used_ += seconds * static_cast<double>(busy_);
    demanded_ += seconds * static_cast<double>(cluster_.Total(false) + cluster_.Total(true));
  }

  void Mix(int64_t value) { report_.digest = (report_.digest ^ static_cast<uint64_t>(value)) * 0x100000001b3; }

  template <typename Body>
  void Timed(Body body) {
    const double start = options_.stopwatch ? options_.stopwatch() : 0;
    body();
    if (options_.stopwatch) report_.scheduling_seconds += options_.stopwatch() - start;
  }

  const SimulationOptions options_;
  const server::SchedulingOptions scheduling_;
  std::mt19937_64 random_;
  Cluster cluster_;
  std::vector<server::QueueConfig> queues_;
  std::vector<SimWorker> workers_;
  std::vector<SimJob> jobs_;
  std::map<WorkerId, int> by_id_;
  std::map<JobId, int> by_job_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  int64_t order_ = 0;
  absl::Duration now_ = absl::ZeroDuration();
  std::map<std::pair<std::string, bool>, int64_t> in_use_;
  std::map<JobId, absl::Duration> heads_;  // jobs that have their turn, since when
  int64_t busy_ = 0;
  double used_ = 0, demanded_ = 0;  // slot-seconds
  SimulationReport report_;
};

}  // namespace

SimulationReport Simulate(const SimulationOptions& options) {
  return Simulation(options).Run();
}

}  // namespace sab::testing_util
