#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace sab {

// std::mutex that clang's -Wthread-safety understands. Not absl::Mutex: ThreadSanitizer cannot see into Debian's.
class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }
  void AssertHeld() const ABSL_ASSERT_EXCLUSIVE_LOCK() {}

 private:
  friend class CondVar;
  std::mutex mutex_;
};

// Holds a Mutex for its lifetime.
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

// Condition variable over Mutex. Wakes spuriously: wait in a loop over the condition.
class CondVar {
 public:
  void Wait(Mutex* mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // False when `timeout` passed first.
  bool WaitFor(Mutex* mutex, absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
#ifdef __SANITIZE_THREAD__
    // ThreadSanitizer of GCC 12 does not intercept pthread_cond_clockwait.
    const auto status =
        condition_.wait_until(lock, std::chrono::system_clock::now() + absl::ToChronoMicroseconds(timeout));
#else
    // Not a point of the system clock: were that set back, the wait would last as much longer.
    const auto status = condition_.wait_for(lock, absl::ToChronoMicroseconds(timeout));
#endif
    lock.release();
    return status == std::cv_status::no_timeout;
  }
  void NotifyOne() {
    condition_.notify_one();
  }
  void NotifyAll() {
    condition_.notify_all();
  }

 private:
  std::condition_variable condition_;
};

}  // namespace sab
