#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "sab/v1/agent_service.pb.h"

namespace sab::agent {

// Processes that have loaded their libraries and wait to be told which trainer they are. Bookkeeping alone: the manager
// starts them and answers them. Not thread-safe.
class StandbyPool {
 public:
  explicit StandbyPool(int size) : size_(size) {}

  // One more shall be started. Not after several in a row have ended before they asked: this program knows no standbys.
  bool Wants() const;
  int64_t NextNumber() { return next_number_++; }
  void Add(int64_t number, int64_t handle) { standbys_[number] = {.handle = handle}; }
  void SetPid(int64_t handle, int pid);

  // The standby asks who it is. Its trainer, and it is forgotten; Unavailable: it shall wait; Aborted: there is no
  // such.
  absl::StatusOr<v1::TrainerId> Ask(int64_t number);
  // Takes one, best one that waits already: it is `id` from now on. One that has not asked yet is told by Ask.
  struct Taken {
    int64_t number = 0;
    int64_t handle = 0;
    int pid = 0;  // 0: not known yet
  };
  std::optional<Taken> Take(const v1::TrainerId& id);

  void Remove(int64_t number) { standbys_.erase(number); }
  void RemoveHandle(int64_t handle);
  // Its process has ended without having been taken.
  void Fail(int64_t handle);
  // Processes that are nobody's yet.
  std::vector<int64_t> Handles() const;

 private:
  struct Standby {
    int64_t handle = 0;
    int pid = 0;
    bool waits = false;               // it has asked
    std::optional<v1::TrainerId> id;  // taken
  };
  const int size_;
  std::map<int64_t, Standby> standbys_;  // by number
  int64_t next_number_ = 1;
  int failures_ = 0;  // in a row
};

}  // namespace sab::agent
