#include "server/events/change_hub.h"

#include <algorithm>
#include <utility>

namespace sab::server {

ChangeHub::ChangeHub() {
  for (Lane lane : {kAgents, kUsers}) dispatchers_[lane] = std::thread([this, lane] { Dispatch(lane); });
}

ChangeHub::~ChangeHub() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (Lane lane : {kAgents, kUsers}) {
    changed_[lane].NotifyAll();
    dispatchers_[lane].join();
  }
}

ChangeHub::Lane ChangeHub::LaneOf(const std::string& key) {
  for (const char* prefix : {"jobs/", "metrics/", "logs/"}) {
    if (key.rfind(prefix, 0) == 0) return kUsers;
  }
  return kAgents;
}

void ChangeHub::Subscribe(const std::string& key, const std::weak_ptr<Listener>& listener) {
  const std::shared_ptr<Listener> alive = listener.lock();
  MutexLock lock(&mutex_);
  subscriptions_[key].push_back({alive.get(), listener});
}

void ChangeHub::Unsubscribe(const std::string& key, const Listener* listener) {
  MutexLock lock(&mutex_);
  auto it = subscriptions_.find(key);
  if (it == subscriptions_.end()) return;
  std::erase_if(it->second, [&](const Subscription& s) { return s.address == listener || s.listener.expired(); });
  if (it->second.empty()) subscriptions_.erase(it);
}

void ChangeHub::Publish(const std::string& key) {
  MutexLock lock(&mutex_);
  if (!subscriptions_.contains(key)) return;
  pending_[LaneOf(key)].insert(key);
  changed_[LaneOf(key)].NotifyOne();
}

void ChangeHub::PublishAll() {
  MutexLock lock(&mutex_);
  for (const auto& [key, listeners] : subscriptions_) pending_[LaneOf(key)].insert(key);
  for (CondVar& changed : changed_) changed.NotifyOne();
}

size_t ChangeHub::subscriptions() const {
  MutexLock lock(&mutex_);
  size_t count = 0;
  for (const auto& [key, listeners] : subscriptions_) count += listeners.size();
  return count;
}

std::vector<std::shared_ptr<Listener>> ChangeHub::TakePending(Lane lane) {
  std::vector<std::shared_ptr<Listener>> listeners;
  for (const std::string& key : pending_[lane]) {
    auto it = subscriptions_.find(key);
    if (it == subscriptions_.end()) continue;
    for (const Subscription& subscription : it->second) {
      if (auto listener = subscription.listener.lock()) listeners.push_back(std::move(listener));
    }
  }
  pending_[lane].clear();
  return listeners;
}

void ChangeHub::Dispatch(Lane lane) {
  for (;;) {
    std::vector<std::shared_ptr<Listener>> listeners;
    {
      MutexLock lock(&mutex_);
      while (pending_[lane].empty() && !stopping_) changed_[lane].Wait(&mutex_);
      if (stopping_) return;
      listeners = TakePending(lane);
    }
    for (const auto& listener : listeners) listener->OnChange();
  }
}

}  // namespace sab::server
