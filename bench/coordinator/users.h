#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "client/api/client.h"
#include "common/base/mutex.h"

namespace sab::bench {

// What must not be, in words; thread-safe.
class Violations {
 public:
  void Add(std::string text);
  std::vector<std::string> Take();

 private:
  Mutex mutex_;
  std::vector<std::string> texts_ ABSL_GUARDED_BY(mutex_);
};

// A user who submits short jobs of a pretended trainer and cancels, pauses, resumes and updates them at random, and
// remembers what was answered. It waits out a coordinator that does not answer.
class User {
 public:
  User(const std::string& address, uint32_t seed, Violations* violations);
  ~User();

  // Ends the stream of calls; blocks for the one under way.
  void Stop();
  // After Stop: resumes what is paused, waits for the end of all jobs, and compares them with what was answered.
  void Check();

  int64_t calls() const { return calls_; }
  int64_t jobs() const { return static_cast<int64_t>(jobs_.size()); }
  // After Stop: the jobs whose creation was answered.
  void AddJobs(std::set<std::string>* names) const;

 private:
  struct Known {
    int64_t steps = 0;
    int64_t pauses = 0;  // that were answered, each costs an attempt
    bool cancelled = false;
    bool final = false;
    std::optional<int64_t> priority;  // last one that was answered
  };
  void Run();
  void Submit();
  void Disturb(const JobId& id, Known& known);
  void CheckJob(const JobId& id, const Known& known);
  void CheckFigures(const JobId& id, const Known& known);
  // True: OK. A final job refuses most verbs, which is right; everything else is a violation.
  bool Answered(const absl::Status& status, const char* verb, const JobId& id, Known& known);

  Violations* const violations_;
  client::Client client_;
  std::mt19937 random_;
  std::map<JobId, Known> jobs_;  // the thread's own until Stop
  std::atomic<bool> stopping_ = false;
  std::atomic<int64_t> calls_ = 0;
  std::thread thread_;
};

// Follows a job that must train through everything: one attempt, steps that never go back while it is RUNNING.
class Follower {
 public:
  Follower(const std::string& address, JobId job, Violations* violations);
  ~Follower();

  // Blocks until it has been seen RUNNING, or has ended.
  void AwaitRunning();
  // Pauses the job and checks what is left of it: PAUSED after one attempt, with a checkpoint of its last step and
  // figures whose steps only grow. Then cancels it.
  void Finish();
  const JobId& job() const { return job_; }

 private:
  void Look(const v1::Job& job);
  v1::Job AwaitState(v1::JobState state);

  const JobId job_;
  Violations* const violations_;
  client::Client client_;
  client::Client watcher_;
  Mutex mutex_;
  CondVar changed_;
  v1::Job last_ ABSL_GUARDED_BY(mutex_);
  int64_t step_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sab::bench
