#include "server/events/worker_thread.h"

#include <algorithm>
#include <utility>

namespace sab::server {

WorkerThread::WorkerThread(std::function<absl::Duration()> run) : run_(std::move(run)), thread_([this] { Loop(); }) {}

WorkerThread::~WorkerThread() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void WorkerThread::OnChange() {
  MutexLock lock(&mutex_);
  woken_ = true;
  changed_.NotifyOne();
}

void WorkerThread::Loop() {
  for (;;) {
    const absl::Duration wait = run_();
    MutexLock lock(&mutex_);
    if (wait == absl::InfiniteDuration()) {
      while (!woken_ && !stopping_) changed_.Wait(&mutex_);
    } else if (!woken_ && !stopping_) {
      changed_.WaitFor(&mutex_, std::max(wait, absl::Milliseconds(1)));
    }
    if (stopping_) return;
    woken_ = false;
  }
}

}  // namespace sab::server
