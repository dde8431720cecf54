#include "model/collective/shared_barrier.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <ctime>

namespace sab::model {
namespace {

// A sleep and a wake-up cost about as much as this; with fewer cores than ranks, spinning keeps the peer from running.
// No sched_yield in between: beside a busy process it gives the core away for a whole time slice.
constexpr std::chrono::nanoseconds kLongestSpin = std::chrono::microseconds(100);
constexpr std::chrono::nanoseconds kCrowdedSpin = std::chrono::microseconds(2);
constexpr std::chrono::nanoseconds kShortestSpin = std::chrono::microseconds(1);
constexpr uint32_t kSpinsPerTrial = 16;
constexpr int kPausesBetweenLooksAtTheClock = 32;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Not the private form: the ranks map the word at different addresses.
void FutexWait(std::atomic<uint32_t>& word, uint32_t seen, std::chrono::nanoseconds longest) {
  const timespec limit = {0, static_cast<long>(longest.count())};
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT, seen, &limit, nullptr, 0);
}

void FutexWakeAll(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

std::chrono::nanoseconds LongestSpin(int ranks) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (sched_getaffinity(0, sizeof(mine), &mine) != 0) return kCrowdedSpin;
  return CPU_COUNT(&mine) >= ranks ? kLongestSpin : kCrowdedSpin;
}

}  // namespace

SharedBarrier::SharedBarrier(BarrierSlot* slots, int rank, std::vector<PeerProcess> peers)
    : slots_(slots),
      rank_(rank),
      peers_(std::move(peers)),
      longest_spin_(LongestSpin(static_cast<int>(peers_.size()))),
      spin_(longest_spin_) {}

SharedBarrier::~SharedBarrier() {
  Leave();
}

void SharedBarrier::Leave() {
  slots_[rank_].left.store(1);
  FutexWakeAll(slots_[rank_].arrived);
}

void SharedBarrier::Abort() {
  aborted_.store(true);
  // Wherever this rank may be asleep. One that was about to fall asleep looks again after kSlice.
  for (size_t peer = 0; peer < peers_.size(); ++peer) FutexWakeAll(slots_[peer].arrived);
}

void SharedBarrier::Synchronise(Clock::time_point start, std::chrono::milliseconds timeout) {
  if (aborted()) throw BarrierError("aborted");
  BarrierSlot& mine = slots_[rank_];
  // Both sequentially consistent, as are the sleeper's two accesses in the other order: either this rank sees the
  // sleeper, or the sleeper sees that this rank has arrived.
  mine.arrived.store(++stage_);
  if (mine.sleepers.load() != 0) FutexWakeAll(mine.arrived);
  for (int peer = 0; peer < static_cast<int>(peers_.size()); ++peer) {
    if (!HasArrived(peer)) Await(peer, start, timeout);
  }
}

// The counts wrap around; ranks are never more than one apart.
bool SharedBarrier::HasArrived(int peer) const {
  return static_cast<int32_t>(slots_[peer].arrived.load() - stage_) >= 0;
}

bool SharedBarrier::Spin(int peer, Clock::time_point from) const {
  do {
    for (int i = 0; i < kPausesBetweenLooksAtTheClock; ++i) {
      if (HasArrived(peer)) return true;
      Pause();
    }
  } while (Clock::now() - from < spin_);
  return false;
}

void SharedBarrier::Await(int peer, Clock::time_point start, std::chrono::milliseconds timeout) {
  const bool met = Spin(peer, Clock::now());
  // Where spinning does not pay, ever less of it is done, but for a trial now and then.
  const bool trial = !met && ++missed_spins_ % kSpinsPerTrial == 0;
  spin_ = met || trial ? longest_spin_ : std::max(kShortestSpin, spin_ / 2);
  while (!HasArrived(peer)) {
    ThrowIfLost(start, timeout);
    Sleep(peer);
  }
}

void SharedBarrier::Sleep(int peer) {
  BarrierSlot& slot = slots_[peer];
  slot.sleepers.fetch_add(1);
  const uint32_t seen = slot.arrived.load();
  if (static_cast<int32_t>(seen - stage_) < 0) FutexWait(slot.arrived, seen, kSlice);
  slot.sleepers.fetch_sub(1);
}

// The ranks that have not arrived and of which `chosen` holds: "rank 1", "ranks 1, 3"; empty for none.
std::string SharedBarrier::Missing(const std::function<bool(int)>& chosen) const {
  std::string names;
  int count = 0;
  for (int peer = 0; peer < static_cast<int>(peers_.size()); ++peer) {
    // Again behind `chosen`: what a rank did before it left or ended counts.
    if (HasArrived(peer) || !chosen(peer) || HasArrived(peer)) continue;
    names += (count++ == 0 ? "" : ", ") + std::to_string(peer);
  }
  return count == 0 ? "" : (count == 1 ? "rank " : "ranks ") + names;
}

void SharedBarrier::ThrowIfLost(Clock::time_point start, std::chrono::milliseconds timeout) const {
  if (aborted()) throw BarrierError("aborted");
  const std::string ended = Missing([this](int peer) { return peers_[static_cast<size_t>(peer)].HasEnded(); });
  if (!ended.empty()) throw BarrierError("the process of " + ended + " has ended");
  const std::string left = Missing([this](int peer) { return slots_[peer].left.load() != 0; });
  if (!left.empty()) throw BarrierError(left + " left the group");
  if (Clock::now() - start < timeout) return;
  const std::string late = Missing([](int) { return true; });
  if (!late.empty()) throw BarrierError("no sign of " + late + " within " + std::to_string(timeout.count()) + " ms");
}

}  // namespace sab::model
