#include "worker/agent/standby.h"

#include <algorithm>

namespace sab::agent {
namespace {

constexpr int kMostFailures = 3;

}  // namespace

bool StandbyPool::Wants() const {
  const auto free =
      std::count_if(standbys_.begin(), standbys_.end(), [](const auto& entry) { return !entry.second.id; });
  return free < size_ && failures_ < kMostFailures;
}

void StandbyPool::SetPid(int64_t handle, int pid) {
  for (auto& [number, standby] : standbys_) {
    if (standby.handle == handle) standby.pid = pid;
  }
}

absl::StatusOr<v1::TrainerId> StandbyPool::Ask(int64_t number) {
  const auto it = standbys_.find(number);
  if (it == standbys_.end()) return absl::AbortedError("this agent does not know this standby");
  failures_ = 0;
  if (it->second.id.has_value()) {
    v1::TrainerId id = *it->second.id;
    standbys_.erase(it);
    return id;
  }
  it->second.waits = true;
  return absl::UnavailableError("there is no trainer for it yet");
}

std::optional<StandbyPool::Taken> StandbyPool::Take(const v1::TrainerId& id) {
  auto best = standbys_.end();
  for (auto it = standbys_.begin(); it != standbys_.end(); ++it) {
    if (it->second.id.has_value()) continue;
    if (best == standbys_.end() || (it->second.waits && !best->second.waits)) best = it;
  }
  if (best == standbys_.end()) return std::nullopt;
  best->second.id = id;
  return Taken{best->first, best->second.handle, best->second.pid};
}

void StandbyPool::RemoveHandle(int64_t handle) {
  std::erase_if(standbys_, [&](const auto& entry) { return entry.second.handle == handle; });
}

void StandbyPool::Fail(int64_t handle) {
  RemoveHandle(handle);
  ++failures_;
}

std::vector<int64_t> StandbyPool::Handles() const {
  std::vector<int64_t> handles;
  for (const auto& [number, standby] : standbys_) {
    if (!standby.id.has_value()) handles.push_back(standby.handle);
  }
  return handles;
}

}  // namespace sab::agent
