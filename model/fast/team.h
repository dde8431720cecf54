#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace sab::model::fast {

// A fixed set of threads that work on one task at a time. The calling thread is member 0: a team of one starts no
// thread.
class Team {
 public:
  explicit Team(int size);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs task(member) once for each member, and returns when all are done. `task` must not throw. One caller at a time.
  void Run(const std::function<void(int)>& task);

 private:
  void Work(int member);

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void(int)>* task_ = nullptr;  // guarded by mutex_
  long round_ = 0;                                  // guarded by mutex_: tasks given out so far
  int busy_ = 0;                                    // guarded by mutex_: workers still at the present task
  bool ending_ = false;                             // guarded by mutex_
  std::vector<std::thread> workers_;
};

}  // namespace sab::model::fast
