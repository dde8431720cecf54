#pragma once

#include <memory>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "common/base/mutex.h"

namespace sab::server {

// Someone who wants to know that something changed. It then reads the present state from its owner and compares
// versions: notifications carry nothing, follow each other merged, and may come without a change.
class Listener {
 public:
  virtual ~Listener() = default;
  // On the hub's thread: must not block.
  virtual void OnChange() = 0;
};

// Tells listeners about changes of keys ("jobs/x", "workers/y", "metrics/x" …). Agents never wait for users: listeners
// of "jobs/", "metrics/" and "logs/" have a thread of their own. Thread-safe.
class ChangeHub {
 public:
  ChangeHub();
  // Pending notifications are dropped.
  ~ChangeHub();

  // A listener that is destroyed is forgotten. To miss nothing: subscribe first, then read the state.
  void Subscribe(const std::string& key, const std::weak_ptr<Listener>& listener);
  // Removes what `listener` subscribed to under `key`; a call of OnChange may still be under way.
  void Unsubscribe(const std::string& key, const Listener* listener);

  // Returns at once and calls nobody on this thread: it may be called under any lock. The pending set holds each key
  // once.
  void Publish(const std::string& key);
  void PublishAll();

  size_t subscriptions() const;

 private:
  struct Subscription {
    const Listener* address;
    std::weak_ptr<Listener> listener;
  };
  enum Lane { kAgents, kUsers, kLanes };
  static Lane LaneOf(const std::string& key);
  void Dispatch(Lane lane);
  std::vector<std::shared_ptr<Listener>> TakePending(Lane lane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  CondVar changed_[kLanes];
  std::unordered_map<std::string, std::vector<Subscription>> subscriptions_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> pending_[kLanes] ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread dispatchers_[kLanes];
};

}  // namespace sab::server
