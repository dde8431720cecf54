#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/collective/peer_process.h"

namespace sab::model {

// What one rank tells the others; in shared memory, zero at first.
struct alignas(128) BarrierSlot {
  std::atomic<uint32_t> arrived;   // synchronisations this rank has come to; others sleep on it
  std::atomic<uint32_t> sleepers;  // threads that may be asleep on `arrived`
  std::atomic<uint32_t> left;      // 1: this rank comes to no further one
};
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4, "a futex word");

// A synchronisation did not complete. The text has the reason alone.
class BarrierError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The point where the ranks of one machine wait for each other, over shared memory. A wait spins for at most some tens
// of microseconds, less where that has not paid, and then sleeps on a futex: ranks that outnumber the cores cost little
// more than their switches.
class SharedBarrier {
 public:
  // `slots`: one for each rank, and they outlive this. `peers`: by rank, the own place included.
  SharedBarrier(BarrierSlot* slots, int rank, std::vector<PeerProcess> peers);
  // Tells the peers that this rank has left.
  ~SharedBarrier();

  // How often this rank has synchronised.
  uint32_t stage() const { return stage_; }

  // Returns once every rank has called it as often as this one. What a rank wrote to shared memory before, the others
  // see afterwards. Throws BarrierError with the ranks it waits for: one has ended (noticed within kSlice), has left,
  // or has not arrived within `timeout` of `start`; or Abort was called. Not to be called again after that.
  void Synchronise(std::chrono::steady_clock::time_point start, std::chrono::milliseconds timeout);

  // Makes a blocked Synchronise, and every later one, throw. Any thread.
  void Abort();
  bool aborted() const { return aborted_.load(); }

  // Tells the peers that this rank comes to no further synchronisation. Idempotent.
  void Leave();

  // The longest sleep between two looks at whether the peers are alive.
  static constexpr std::chrono::milliseconds kSlice{10};

 private:
  using Clock = std::chrono::steady_clock;

  bool HasArrived(int peer) const;
  bool Spin(int peer, Clock::time_point from) const;
  void Await(int peer, Clock::time_point start, std::chrono::milliseconds timeout);
  void Sleep(int peer);
  void ThrowIfLost(Clock::time_point start, std::chrono::milliseconds timeout) const;
  std::string Missing(const std::function<bool(int)>& chosen) const;

  BarrierSlot* const slots_;
  const int rank_;
  const std::vector<PeerProcess> peers_;
  const std::chrono::nanoseconds longest_spin_;
  std::chrono::nanoseconds spin_;
  uint32_t missed_spins_ = 0;
  uint32_t stage_ = 0;
  std::atomic<bool> aborted_ = false;
};

}  // namespace sab::model
