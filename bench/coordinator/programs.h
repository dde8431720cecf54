#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/process/child_process.h"

namespace sab::bench {

// A coordinator that may be killed and started again on its state and address, and its workers: processes of this
// machine, with all they keep below one folder. They end with this object. What cannot go on (a program that is
// missing, or does not come up within a minute) ends the process with a message.
class Programs {
 public:
  // `bin_dir` has sab-coordinator and sab-worker; `folder` exists.
  Programs(std::string bin_dir, std::string folder);
  ~Programs();

  // Returns as soon as the process runs; AwaitAddress waits for the first one to serve.
  void StartCoordinator();
  void AwaitAddress();
  // SIGKILL, and reaped when this returns.
  void KillCoordinator();

  // A worker of CPU slots. `trainer` empty: sab-trainer.
  void StartWorker(int slots, const std::string& trainer);

  // "127.0.0.1:PORT", the same for all runs.
  const std::string& address() const { return address_; }
  // Steps that the trainers of worker `index` (in order of StartWorker) have reported to it, added up, as it says
  // without the coordinator.
  int64_t StepsSeenByAgent(size_t index) const;
  // Processor time that the present coordinator has used.
  double CoordinatorProcessorSeconds() const;
  // The end of what the programs have written, for the text of a failure.
  std::string Logs() const;

 private:
  ChildProcess Start(const std::string& program, const std::string& log, std::vector<std::string> arguments) const;
  std::string AwaitFile(const std::string& path) const;

  const std::string bin_dir_;
  const std::string folder_;
  std::string address_;
  std::optional<ChildProcess> coordinator_;
  std::vector<ChildProcess> workers_;
  std::vector<std::string> worker_metrics_;
};

// Seconds until a coordinator at `address` has answered a call, over a connection of its own.
double AwaitAnswer(const std::string& address);

}  // namespace sab::bench
