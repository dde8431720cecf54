#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "worker/agent/reconcile.h"

namespace sab::agent {

// The agent's folder:
//   lock               held while an agent runs on it
//   worker-id          drawn once
//   incarnation        of the last agent
//   trainers/*.json    one for each trainer process that runs: id, pid, start time
//   logs/              what trainers printed
//   checkpoints/       without a folder shared with the coordinator
class StateDir {
 public:
  // Creates and locks the folder. FailedPrecondition: another agent runs on it.
  static absl::StatusOr<StateDir> Open(const std::string& path);
  StateDir(StateDir&& other) noexcept;
  StateDir& operator=(StateDir&&) = delete;
  ~StateDir();

  const std::string& path() const { return path_; }
  const WorkerId& worker() const { return worker_; }
  // `now` in microseconds, or more than any earlier agent's on this folder.
  absl::StatusOr<int64_t> NextIncarnation(absl::Time now);

  // Kills trainers that an earlier agent left and waits until they are gone. Returns those that were running or may
  // have been.
  std::vector<TrainerKey> EndLeftovers();
  void RecordTrainer(const TrainerKey& key, int pid);
  void ForgetTrainer(const TrainerKey& key);

  // Path of a trainer's log, its folder present. Only the newest 200 logs are kept.
  std::string LogPath(const TrainerKey& key);

 private:
  StateDir() = default;
  std::string RecordPath(const TrainerKey& key) const;
  std::string path_;
  int lock_fd_ = -1;
  WorkerId worker_;
};

}  // namespace sab::agent
