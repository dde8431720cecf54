#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "sab/v1/checkpoint_service.pb.h"
#include "sab/v1/job.pb.h"
#include "sab/v1/worker_service.pb.h"
#include "server/store/sqlite.h"

namespace sab::server {

// A job as it is stored.
struct JobRecord {
  v1::Job job;           // `attempts` oldest first
  int64_t restarts = 0;  // attempts that failures have cost so far
};

// What must outlive the coordinator about a worker.
struct WorkerRecord {
  v1::Worker worker;
  int64_t incarnation = 0;
};

// Everything in the store.
struct StoredState {
  std::vector<JobRecord> jobs;                  // in order of creation
  std::map<std::string, std::string> requests;  // request id -> job id
  std::vector<v1::Checkpoint> checkpoints;      // in order of name
  std::vector<WorkerRecord> workers;
  std::vector<std::string> removals;  // see StoreChange
};

// Changes that become durable together.
struct StoreChange {
  std::vector<JobRecord> put_jobs;  // the job and its last attempt: older attempts never change
  std::map<std::string, std::string> add_requests;
  std::vector<JobId> delete_jobs;  // with attempts, request ids and checkpoints
  std::vector<v1::Checkpoint> put_checkpoints;
  std::vector<std::string> delete_checkpoints;  // resource names
  std::vector<WorkerRecord> put_workers;
  // Files and figures still to be removed after rows that named them are gone: what they mean is the coordinator's
  // matter.
  std::vector<std::string> add_removals;
  std::vector<std::string> drop_removals;
};

// The durable state of the coordinator: STATE/coordinator.db, SQLite in WAL mode with synchronous=FULL.
// Thread-compatible.
class Store {
 public:
  // Creates `state_dir` and the file if missing, and holds STATE/lock for this object's lifetime.
  // FailedPrecondition: another coordinator uses the folder (reason STATE_DIR_IN_USE), or a newer version wrote it
  // (STORE_TOO_NEW). DataLoss: damaged (STORE_DAMAGED). Unavailable: the folder cannot be written.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& state_dir);
  ~Store();

  absl::StatusOr<StoredState> Load();

  // All of `change` or nothing; synced to disk when it returns OK.
  absl::Status Commit(const StoreChange& change);

 private:
  Store(int lock_fd, std::unique_ptr<Database> database) : lock_fd_(lock_fd), database_(std::move(database)) {}
  absl::Status Put(const JobRecord& record);
  absl::Status Apply(const StoreChange& change);

  const int lock_fd_;
  const std::unique_ptr<Database> database_;
};

}  // namespace sab::server
