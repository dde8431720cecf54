#include "server/scheduling/round.h"

#include <algorithm>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"

namespace sab::server {
namespace {

constexpr size_t kLeastLaneDepth = 8;
constexpr size_t kMostReserved = 1024;

}  // namespace

Round::Round(Cluster* cluster, absl::Duration now, const SchedulingOptions& options)
    : cluster_(cluster), now_(now), options_(options), bounded_(cluster->bounded()) {
  std::map<const ClusterQueue*, size_t> index;
  any_cpu_ = ShapeOf(false, 0);
  for (const auto& [name, queue] : cluster->queues()) {
    index[&queue] = queues_.size();
    queues_.push_back({&queue, cluster->Share(queue, now), queue.in_use, {}});
  }
  for (const auto& [key, lane] : cluster->lanes()) {
    heap_.push_back(lanes_.size());
    lanes_.push_back({.lane = &lane,
                      .next = lane.jobs.begin(),
                      .job = *lane.jobs.begin(),
                      .priority = (*lane.jobs.begin())->priority,
                      .queue = index.at(lane.queue),
                      .shapes = {0, ShapeOf(true, key.min_gpu_memory)}});
    lanes_.back().shapes[false] = ShapeOf(false, MemoryOf(lanes_.back().job->request, false));
  }
  lane_depth_ = std::max(kLeastLaneDepth, options.depth / std::max<size_t>(1, lanes_.size()));
  std::make_heap(heap_.begin(), heap_.end(), [this](size_t a, size_t b) { return GoesAfter(a, b); });
  decision_.waits.reserve(options.depth < kMostReserved ? options.depth : 0);
}

Round::~Round() {
  for (auto it = taken_.rbegin(); it != taken_.rend(); ++it)
    cluster_->Give(it->worker, it->slots, it->indices, it->memory);
}

size_t Round::ShapeOf(bool cuda, int64_t memory) {
  for (size_t i = 0; i < shapes_.size(); ++i) {
    if (shapes_[i].cuda == cuda && shapes_[i].memory == memory) return i;
  }
  shapes_.push_back({.cuda = cuda,
                     .memory = memory,
                     .total = cluster_->Total(cuda, memory),
                     .free = cluster_->Free(cuda, memory),
                     .kept = {}});
  return shapes_.size() - 1;
}

const Round::Shape& Round::TurnOf(const Shape& shape) const {
  return shape.cuda || !cpu_turn_.has_value() ? shape : shapes_[*cpu_turn_];
}

int64_t Round::MemoryOf(const GangRequest& request, bool cuda) const {
  return cuda ? request.min_gpu_memory : bounded_ ? request.memory : 0;
}

bool Round::WantsCuda(const GangRequest& request) const {
  if (request.device == v1::DEVICE_KIND_CUDA) return true;
  if (request.device == v1::DEVICE_KIND_CPU) return false;
  const int64_t total = cluster_->Total(true, request.min_gpu_memory);
  return total > 0 && total >= request.least();
}

bool Round::GoesAfter(size_t lane, size_t other) const {
  const ActiveLane& a = lanes_[lane];
  const ActiveLane& b = lanes_[other];
  if (a.priority != b.priority) return a.priority < b.priority;
  const double share_a = queues_[a.queue].share, share_b = queues_[b.queue].share;
  if (a.queue != b.queue && share_a != share_b) return share_a > share_b;
  return BeforeInQueue()(b.job, a.job);
}

// Nothing behind the present job of the lane can start, or has a say, in this round.
bool Round::IsHopeless(const ActiveLane& lane) const {
  if (lane.looked_at >= lane_depth_) return true;
  const v1::DeviceKind device = lane.job->request.device;
  for (const bool cuda : {false, true}) {
    if (device == (cuda ? v1::DEVICE_KIND_CPU : v1::DEVICE_KIND_CUDA)) continue;
    // Behind a job there may be others that need less memory.
    const Shape& shape = shapes_[cuda ? lane.shapes[true] : any_cpu_];
    const bool full = TurnOf(shape).kept.job != nullptr && shape.free == 0;
    if (shape.total > 0 && !full && queues_[lane.queue].blocked[cuda] == nullptr) return false;
  }
  // Who asks about one job looks at all before it.
  return lane.looked_at > kLeastLaneDepth && options_.depth != std::numeric_limits<size_t>::max();
}

const WaitingJob* Round::Step() {
  if (heap_.empty()) return nullptr;
  const auto after = [this](size_t a, size_t b) { return GoesAfter(a, b); };
  std::pop_heap(heap_.begin(), heap_.end(), after);
  ActiveLane& lane = lanes_[heap_.back()];
  const WaitingJob* job = lane.job;
  const size_t starts = decision_.starts.size();
  if (!Consider(lane)) ++lane.looked_at;
  if (++lane.next == lane.lane->jobs.end() || IsHopeless(lane)) {
    heap_.pop_back();
  } else {
    lane.job = *lane.next;
    lane.priority = lane.job->priority;
    if (bounded_) lane.shapes[false] = ShapeOf(false, MemoryOf(lane.job->request, false));
    std::push_heap(heap_.begin(), heap_.end(), after);
  }
  // A start has changed its queue's share.
  if (decision_.starts.size() != starts) std::make_heap(heap_.begin(), heap_.end(), after);
  return job;
}

bool Round::Consider(const ActiveLane& lane) {
  const WaitingJob& job = *lane.job;
  ActiveQueue& queue = queues_[lane.queue];
  const int64_t need = job.request.least();
  Shape& gpus = shapes_[lane.shapes[true]];
  const bool cuda = job.request.device == v1::DEVICE_KIND_AUTO ? gpus.total > 0 && gpus.total >= need
                                                               : job.request.device == v1::DEVICE_KIND_CUDA;
  Shape& shape = cuda ? gpus : shapes_[lane.shapes[false]];
  Wait wait{.job = &job, .cuda = cuda, .free = shape.free, .total = shape.total, .memory = shape.memory};
  if (shape.total < need) {
    wait.kind = cluster_->connected_workers() == 0 ? WaitKind::kNoWorker : WaitKind::kTooLarge;
    if (!cuda && shape.memory > 0 && cluster_->Total(false) >= need) wait.largest_memory = cluster_->LargestMemory();
  } else if (PassesQuota(queue, shape, &wait)) {
    std::vector<Piece> plan;
    const Reservation* kept = SurelyInTheWay(job, shape);
    // With as many ranks as there is room for; with fewer where that many would be in somebody's way.
    for (int64_t count = kept == nullptr ? MostNow(job, queue, shape) : 0; count > 0;) {
      plan = PlanFor(job, shape, count, &kept);
      if (kept == nullptr || count == need) break;
      count = job.request.MostOf(std::max(need, count / 2));
    }
    if (!plan.empty() && kept == nullptr) {
      Start(job, queue, shape, plan);
      return true;
    }
    const Reservation& turn = TurnOf(shape).kept;
    if (turn.job != nullptr) kept = &turn;
    wait.kind = WaitKind::kBehind;
    if (kept != nullptr) wait.behind = kept->job;
    if (turn.job == nullptr) Reserve(queue, shape, &wait);
  }
  decision_.waits.push_back(wait);
  return wait.kind == WaitKind::kTooLarge || wait.kind == WaitKind::kNoWorker || wait.kind == WaitKind::kAboveQuota;
}

// How many ranks the job could start with; 0: not even the fewest.
int64_t Round::MostNow(const WaitingJob& job, const ActiveQueue& queue, const Shape& shape) const {
  const std::optional<int64_t>& quota = queue.queue->config.quota[shape.cuda];
  return job.request.MostOf(quota.has_value() ? std::min(shape.free, *quota - queue.in_use[shape.cuda]) : shape.free);
}

bool Round::PassesQuota(ActiveQueue& queue, const Shape& shape, Wait* wait) {
  const bool cuda = wait->cuda;
  const int64_t need = wait->job->request.least();
  const std::optional<int64_t>& quota = queue.queue->config.quota[cuda];
  if (!quota.has_value()) return true;
  wait->quota = *quota;
  wait->in_use = queue.in_use[cuda];
  if (need > *quota) {
    wait->kind = WaitKind::kAboveQuota;
  } else if (queue.blocked[cuda] != nullptr) {
    wait->kind = WaitKind::kBehindQuota;
    wait->behind = queue.blocked[cuda];
  } else if (queue.in_use[cuda] + need > *quota) {
    wait->kind = MakeQuota(queue, *wait->job, shape);
    queue.blocked[cuda] = wait->job;
  } else {
    return true;
  }
  return false;
}

std::vector<Round::Piece> Round::Plan(const Shape& shape, int64_t need) {
  std::vector<Piece> plan;
  for (auto& [key, slots] : cluster_->classes()) {
    if (!Serves(slots, shape.cuda, shape.memory)) continue;
    const Buckets& buckets = slots.BucketsFor(shape.memory);
    if (auto bucket = buckets.lower_bound(need); bucket != buckets.end()) {
      plan.push_back({*bucket->second.begin(), &slots, need});
      return plan;
    }
  }
  for (auto& [key, slots] : cluster_->classes()) {
    if (!Serves(slots, shape.cuda, shape.memory)) continue;
    const Buckets& buckets = slots.BucketsFor(shape.memory);
    for (auto bucket = buckets.rbegin(); bucket != buckets.rend() && need > 0; ++bucket) {
      for (auto worker = bucket->second.begin(); worker != bucket->second.end() && need > 0; ++worker) {
        const int64_t count = std::min(need, bucket->first);
        plan.push_back({*worker, &slots, count});
        need -= count;
      }
    }
  }
  return plan;
}

// A plan, and the reservation that it would put off all the same, if any.
std::vector<Round::Piece> Round::PlanFor(const WaitingJob& job, const Shape& shape, int64_t need,
                                         const Reservation** kept) {
  const Reservation& turn = TurnOf(shape).kept;
  const bool shares = !shape.cuda && turn.job != nullptr && turn.memory > 0 && !IsGoneBy(job, turn);
  std::vector<Piece> plan;
  if (!shares || turn.spare > 0) {
    plan = Plan(shape, need);
    *kept = IsClosed(job, shape) ? &turn : InTheWay(job, shape, plan);
    if (!shares || *kept == nullptr) return plan;
  }
  plan = PlanAround(shape, need);
  *kept = plan.empty() ? &turn : nullptr;
  return plan;
}

// A reservation that it would put off wherever it starts, found without a plan. Null: it takes a plan to know.
const Round::Reservation* Round::SurelyInTheWay(const WaitingJob& job, const Shape& shape) const {
  if (shape.free < job.request.least()) return nullptr;
  for (const Shape& other : shapes_) {
    const Reservation& kept = other.kept;
    if (kept.job == nullptr || other.cuda != shape.cuda || kept.spare >= job.request.least()) continue;
    // Whether each rank counts on all slots that it could have.
    const bool counts = shape.cuda || kept.memory == 0 || kept.at == absl::InfiniteDuration();
    const bool in_way =
        counts ? SmallestFree(shape) >= other.memory : kept.spare == 0 && IsInVain(shape.memory, job.request.least());
    if (in_way && !IsGoneBy(job, kept)) return &kept;
  }
  return nullptr;
}

// Memory of the smallest slots, or CPU workers, that have something free for it.
int64_t Round::SmallestFree(const Shape& shape) const {
  const auto& classes = cluster_->classes();
  for (auto it = classes.lower_bound({shape.cuda, shape.memory}); it != classes.end(); ++it) {
    if (it->second.cuda != shape.cuda) break;
    if (it->second.FreeFor(shape.memory) > 0) return it->second.memory;
  }
  return std::numeric_limits<int64_t>::max();
}

// Nobody has looked whether a job before this one, that asks for less, could start where this one would.
bool Round::IsClosed(const WaitingJob& job, const Shape& shape) const {
  return !shape.cuda && looked_around_ > kMostLookedAround && !IsGoneBy(job, TurnOf(shape).kept);
}

// It ends before what is kept is needed.
bool Round::IsGoneBy(const WaitingJob& job, const Reservation& kept) const {
  return kept.at == absl::InfiniteDuration() ? job.limit <= options_.blind_backfill : now_ + job.limit <= kept.at;
}

// The reservation that the job would put off. Counts what it uses up of the others' spare slots otherwise.
const Round::Reservation* Round::InTheWay(const WaitingJob& job, const Shape& shape, const std::vector<Piece>& plan) {
  std::vector<std::pair<Reservation*, int64_t>> used;
  for (Shape& other : shapes_) {
    Reservation& kept = other.kept;
    if (kept.job == nullptr || other.cuda != shape.cuda || IsGoneBy(job, kept)) continue;
    int64_t count = 0;
    for (const Piece& piece : plan) count += Harm(other, piece, shape.memory);
    if (count > kept.spare) return &kept;
    used.emplace_back(&kept, count);
  }
  for (auto& [kept, count] : used) kept->spare -= count;
  return nullptr;
}

void Round::Start(const WaitingJob& job, ActiveQueue& queue, const Shape& shape, const std::vector<Piece>& plan) {
  Placed placed{.job = job.job, .cuda = shape.cuda, .placements = Take(plan, shape, now_ + job.limit)};
  const auto count = static_cast<int64_t>(placed.placements.size());
  queue.in_use[shape.cuda] += count;
  // The start is charged when it is carried out; until then the order of this round must know of it.
  queue.share += cluster_->StartShare(*queue.queue, shape.cuda, count);
  decision_.starts.push_back(std::move(placed));
}

std::vector<RankPlacement> Round::Take(const std::vector<Piece>& plan, const Shape& shape, absl::Duration end) {
  std::vector<RankPlacement> placements;
  const int64_t memory = shape.cuda ? 0 : shape.memory;
  for (const Piece& piece : plan) {
    Taken taken{piece.worker, piece.slots, cluster_->Take(piece.worker, piece.slots, piece.count, memory), end, memory};
    for (int32_t slot : taken.indices) placements.push_back({piece.worker->view.id, slot});
    if (bounded_ && !shape.cuda) taken_on_[piece.worker].push_back(taken_.size());
    slack_.erase(piece.worker);
    taken_.push_back(std::move(taken));
    for (Shape& other : shapes_) {
      if (other.cuda && Serves(*piece.slots, true, other.memory)) other.free -= piece.count;
    }
  }
  for (Shape& other : shapes_) {
    if (!shape.cuda && !other.cuda) other.free = cluster_->Free(false, other.memory);
  }
  return placements;
}

void Round::Grow() {
  for (const ClusterJob* job : cluster_->short_jobs()) {
    const RunningJob& view = job->view;
    const int64_t ranks = view.ranks();
    ActiveQueue& queue = *std::find_if(queues_.begin(), queues_.end(),
                                       [&](const ActiveQueue& active) { return active.queue == job->queue; });
    const size_t shape = ShapeOf(view.cuda, MemoryOf(view.request, view.cuda));
    Growth growth{.job = view.job, .ranks = ranks, .wanted = view.request.replicas, .added = {}, .reason = {}};
    growth.reason = WhyNotGrow(*job, queue, shapes_[shape]);
    if (growth.reason.empty()) {
      const std::optional<int64_t>& quota = queue.queue->config.quota[view.cuda];
      const int64_t room = quota.has_value() ? *quota - queue.in_use[view.cuda] : view.request.replicas;
      const int64_t count = view.request.MostOf(ranks + std::min(room, shapes_[shape].free)) - ranks;
      growth.added = Take(Plan(shapes_[shape], count), shapes_[shape], view.expected_end);
      queue.in_use[view.cuda] += count;
    }
    decision_.growths.push_back(std::move(growth));
  }
}

// Empty: it can.
std::string Round::WhyNotGrow(const ClusterJob& job, const ActiveQueue& queue, const Shape& shape) const {
  const RunningJob& view = job.view;
  const int64_t ranks = view.ranks();
  if (shape.free == 0) {
    return cluster_->Free(view.cuda, view.cuda ? shape.memory : 0) == 0 ? "no free slot"
                                                                        : "no free slot with memory for it";
  }
  for (const Wait& wait : decision_.waits) {
    const bool for_slots = wait.kind == WaitKind::kSlots || wait.kind == WaitKind::kShrinking ||
                           wait.kind == WaitKind::kPreempting || wait.kind == WaitKind::kBehind;
    const bool for_quota =
        (wait.kind == WaitKind::kQuota || wait.kind == WaitKind::kQuotaGiven || wait.kind == WaitKind::kBehindQuota) &&
        wait.job->queue == view.queue;
    if (wait.cuda == view.cuda && (for_slots || for_quota)) {
      return absl::StrCat(for_quota ? "the quota is for " : "the free slots are for ", wait.job->job.name(),
                          ", which waits");
    }
  }
  if (view.request.MostOf(ranks + shape.free) <= ranks) {
    return absl::StrCat("too few free slots: the next number that it may have is ", 2 * ranks);
  }
  const std::optional<int64_t>& quota = queue.queue->config.quota[view.cuda];
  if (quota.has_value() &&
      view.request.MostOf(ranks + std::min(shape.free, *quota - queue.in_use[view.cuda])) <= ranks) {
    return absl::StrCat("queue ", view.queue, " uses its quota of ", *quota);
  }
  return now_ < view.may_resize ? "grows soon" : "";
}

}  // namespace sab::server
