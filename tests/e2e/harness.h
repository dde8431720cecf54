#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/api/client.h"
#include "client/process/child_process.h"
#include "tests/util/temp_dir.h"

namespace sab::e2e {

// Longest that anything here waits for. Nothing needs it on a sound machine; waiting ends at once when the awaited
// happens.
inline constexpr absl::Duration kPatience = absl::Seconds(120);

struct ClusterOptions {
  int workers = 2;
  std::string lease = "5s";
  bool shared_checkpoints = true;  // coordinator and workers have a folder in common
  int slots = 1;                   // of each worker
  std::string memory = "100%";     // of each worker, for its slots
};

// What a command line did.
struct Ran {
  int code = -1;
  std::string out, err;
};

// The real programs on free ports of this machine, with their state in a temporary folder: one coordinator and workers
// of one CPU slot each. Everything ends with it. Failures to come up are test failures (gtest) and leave an unusable
// cluster.
class Cluster {
 public:
  explicit Cluster(ClusterOptions options = {});
  ~Cluster();

  client::Client& client() { return *client_; }
  const std::string& address() const { return address_; }
  std::string checkpoint_dir() const { return dir_.path() + "/checkpoints"; }
  const std::string& dir() const { return dir_.path(); }

  // sabctl with these arguments and this coordinator's address.
  Ran Sabctl(const std::vector<std::string>& arguments);

  // Submits a job file through sabctl; a test failure when it is refused.
  JobId Submit(const std::string& yaml, const std::vector<std::string>& options = {});

  // Waits until `condition` holds for the job (or it is final) and returns it as it then was. A test failure after
  // kPatience.
  v1::Job Await(const JobId& job, const std::function<bool(const v1::Job&)>& condition);
  v1::Job AwaitFinal(const JobId& job);
  // Waits until `count` checkpoints are recorded; newest first.
  std::vector<v1::Checkpoint> AwaitCheckpoints(const JobId& job, size_t count);
  // Waits until attempt `number` has trained a little.
  v1::Job AwaitTraining(const JobId& job, int64_t number);
  // Pauses a job, wherever it is by then, and returns the checkpoint that it leaves with.
  v1::Checkpoint Pause(const JobId& job);
  // Waits until so many workers are READY.
  void AwaitWorkers(int count);

  // The trainers' process ids, that of rank r at index r; waits until `count` run.
  std::vector<pid_t> AwaitTrainers(const JobId& job, int count);

  // SIGKILL, and reaped when this returns.
  void KillCoordinator();
  // On the same state and address.
  void StartCoordinator();
  void KillWorker(int index);
  ChildProcess& worker(int index) { return *workers_[index]; }
  // `workers/{worker}` of the process that StartWorker started as `index`, from the state it keeps.
  void StartWorker(int index);

  // What all programs have written so far: for the text of a failed assertion.
  std::string Logs() const;

 private:
  absl::StatusOr<ChildProcess> Start(const std::string& program, const std::string& title,
                                     std::vector<std::string> arguments);
  // Waits until a file has content and returns it.
  std::string AwaitFile(const std::string& path);

  const ClusterOptions options_;
  testing_util::TempDir dir_;
  std::string address_;
  std::optional<ChildProcess> coordinator_;
  std::vector<std::optional<ChildProcess>> workers_;
  std::unique_ptr<client::Client> client_;
  int runs_ = 0;
};

// Runs a program to its end, killed after kPatience.
Ran RunProgram(const std::string& program, const std::vector<std::string>& arguments, const std::string& scratch_dir);

// Folder of the programs under test.
std::string BinDir();

// SHA-256 of a file of a checkpoint, by its name.
std::string DigestOf(const v1::Checkpoint& checkpoint, std::string_view path);

// Pauses `job`, made of CopyJob(replicas, kEndless, ...) with `options`, and expects that what it leaves with is to the
// bit what a job ends with that trained so many steps and was never disturbed.
void ExpectNoBitLost(Cluster& cluster, const JobId& job, int replicas, const std::vector<std::string>& options = {});

// Repeats `condition` until it holds; between two tries it waits a little. For what no stream or descriptor tells.
// False after kPatience.
bool Eventually(const std::function<bool()>& condition);

}  // namespace sab::e2e
