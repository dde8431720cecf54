#include "model/fast/team.h"

namespace sab::model::fast {

Team::Team(int size) {
  for (int member = 1; member < size; ++member) workers_.emplace_back([this, member] { Work(member); });
}

Team::~Team() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Team::Run(const std::function<void(int)>& task) {
  if (!workers_.empty()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    task_ = &task;
    ++round_;
    busy_ = static_cast<int>(workers_.size());
    changed_.notify_all();
  }
  task(0);
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return busy_ == 0; });
}

void Team::Work(int member) {
  long seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ending_ || round_ != seen; });
    if (ending_) return;
    seen = round_;
    const std::function<void(int)>& task = *task_;
    lock.unlock();
    task(member);
    lock.lock();
    if (--busy_ == 0) changed_.notify_all();
  }
}

}  // namespace sab::model::fast
