#include "server/store/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <unordered_map>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sab::server {
namespace {

const std::vector<std::string>& Schema() {
  static const auto& versions = *new std::vector<std::string>{R"sql(
    CREATE TABLE jobs (id TEXT PRIMARY KEY, created INTEGER NOT NULL, restarts INTEGER NOT NULL, job BLOB NOT NULL);
    CREATE TABLE attempts (job TEXT NOT NULL, number INTEGER NOT NULL, attempt BLOB NOT NULL, PRIMARY KEY (job, number))
      WITHOUT ROWID;
    CREATE TABLE requests (id TEXT PRIMARY KEY, job TEXT NOT NULL);
    CREATE INDEX requests_by_job ON requests (job);
    CREATE TABLE checkpoints (name TEXT PRIMARY KEY, job TEXT NOT NULL, checkpoint BLOB NOT NULL);
    CREATE INDEX checkpoints_by_job ON checkpoints (job);
    CREATE TABLE workers (id TEXT PRIMARY KEY, incarnation INTEGER NOT NULL, worker BLOB NOT NULL);
    CREATE TABLE removals (what TEXT PRIMARY KEY);
  )sql"};
  return versions;
}

std::string JobPart(const std::string& name) {
  return name.substr(name.find('/') + 1);
}

absl::StatusOr<int> LockFolder(const std::string& state_dir) {
  const std::string path = state_dir + "/lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) {
    return WithReason(absl::UnavailableError(absl::StrCat(path, " cannot be written: ", strerror(errno))),
                      "STORE_UNAVAILABLE");
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    char pid[32] = {};
    (void)!read(fd, pid, sizeof(pid) - 1);
    close(fd);
    return WithReason(absl::FailedPreconditionError(absl::StrCat("the state folder ", state_dir,
                                                                 " is used by another coordinator (process ", pid,
                                                                 "): stop it or choose another --state-dir")),
                      "STATE_DIR_IN_USE");
  }
  const std::string pid = absl::StrCat(getpid());
  if (ftruncate(fd, 0) == 0) (void)!write(fd, pid.data(), pid.size());
  return fd;
}

template <typename Message>
void ParseRow(const std::string& bytes, Message* message, bool* damaged) {
  if (!message->ParseFromString(bytes)) *damaged = true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& state_dir) {
  std::error_code error;
  std::filesystem::create_directories(state_dir, error);
  if (error) {
    return WithReason(
        absl::UnavailableError(absl::StrCat("the state folder ", state_dir, " cannot be made: ", error.message())),
        "STORE_UNAVAILABLE");
  }
  SAB_ASSIGN_OR_RETURN(const int lock_fd, LockFolder(state_dir));
  absl::Cleanup unlock = [lock_fd] { close(lock_fd); };
  SAB_ASSIGN_OR_RETURN(auto database, Database::Open(state_dir + "/coordinator.db", Database::Sync::kFull));
  std::string verdict;
  SAB_RETURN_IF_ERROR(database->Query("PRAGMA quick_check(1)", [&](const Row& row) { verdict = row.Bytes(0); }));
  if (verdict != "ok") {
    return WithReason(absl::DataLossError(absl::StrCat(database->path(), " is damaged: ", verdict,
                                                       "; restore it from a backup or choose another --state-dir")),
                      "STORE_DAMAGED");
  }
  SAB_RETURN_IF_ERROR(Migrate(*database, Schema()));
  std::move(unlock).Cancel();
  return std::unique_ptr<Store>(new Store(lock_fd, std::move(database)));
}

Store::~Store() {
  close(lock_fd_);
}

absl::StatusOr<StoredState> Store::Load() {
  StoredState state;
  bool damaged = false;
  std::unordered_map<std::string, size_t> index;
  SAB_RETURN_IF_ERROR(database_->Query("SELECT id, restarts, job FROM jobs ORDER BY created, id", [&](const Row& row) {
    index[row.Bytes(0)] = state.jobs.size();
    JobRecord& record = state.jobs.emplace_back();
    record.restarts = row.Int(1);
    ParseRow(row.Bytes(2), &record.job, &damaged);
  }));
  SAB_RETURN_IF_ERROR(database_->Query("SELECT job, attempt FROM attempts ORDER BY job, number", [&](const Row& row) {
    auto it = index.find(row.Bytes(0));
    if (it == index.end()) return;
    ParseRow(row.Bytes(1), state.jobs[it->second].job.add_attempts(), &damaged);
  }));
  SAB_RETURN_IF_ERROR(database_->Query("SELECT id, job FROM requests",
                                       [&](const Row& row) { state.requests[row.Bytes(0)] = row.Bytes(1); }));
  SAB_RETURN_IF_ERROR(database_->Query("SELECT checkpoint FROM checkpoints ORDER BY name", [&](const Row& row) {
    ParseRow(row.Bytes(0), &state.checkpoints.emplace_back(), &damaged);
  }));
  SAB_RETURN_IF_ERROR(database_->Query("SELECT incarnation, worker FROM workers ORDER BY id", [&](const Row& row) {
    WorkerRecord& record = state.workers.emplace_back();
    record.incarnation = row.Int(0);
    ParseRow(row.Bytes(1), &record.worker, &damaged);
  }));
  SAB_RETURN_IF_ERROR(
      database_->Query("SELECT what FROM removals", [&](const Row& row) { state.removals.push_back(row.Bytes(0)); }));
  if (damaged) {
    return WithReason(absl::DataLossError(absl::StrCat(database_->path(),
                                                       " holds a row that cannot be read: restore "
                                                       "it from a backup or choose another "
                                                       "--state-dir")),
                      "STORE_DAMAGED");
  }
  return state;
}

absl::Status Store::Commit(const StoreChange& change) {
  return database_->InTransaction([&] { return Apply(change); });
}

absl::Status Store::Put(const JobRecord& record) {
  v1::Job job = record.job;
  const std::string id = JobPart(job.name());
  if (job.attempts_size() > 0) {
    const v1::Attempt& last = job.attempts(job.attempts_size() - 1);
    SAB_RETURN_IF_ERROR(database_->Run("INSERT OR REPLACE INTO attempts (job, number, attempt) VALUES (?, ?, ?)", id,
                                       int64_t{last.number()}, Blob{last.SerializeAsString()}));
  }
  job.clear_attempts();
  const int64_t created = job.create_time().seconds() * 1000000 + job.create_time().nanos() / 1000;
  return database_->Run("INSERT OR REPLACE INTO jobs (id, created, restarts, job) VALUES (?, ?, ?, ?)", id, created,
                        record.restarts, Blob{job.SerializeAsString()});
}

absl::Status Store::Apply(const StoreChange& change) {
  for (const JobRecord& record : change.put_jobs) SAB_RETURN_IF_ERROR(Put(record));
  for (const auto& [id, job] : change.add_requests) {
    SAB_RETURN_IF_ERROR(database_->Run("INSERT INTO requests (id, job) VALUES (?, ?)", id, job));
  }
  for (const v1::Checkpoint& checkpoint : change.put_checkpoints) {
    const std::string& name = checkpoint.name();
    const std::string job = JobPart(name).substr(0, JobPart(name).find('/'));
    SAB_RETURN_IF_ERROR(database_->Run("INSERT OR REPLACE INTO checkpoints (name, job, checkpoint) VALUES (?, ?, ?)",
                                       name, job, Blob{checkpoint.SerializeAsString()}));
  }
  for (const std::string& name : change.delete_checkpoints) {
    SAB_RETURN_IF_ERROR(database_->Run("DELETE FROM checkpoints WHERE name = ?", name));
  }
  for (const JobId& job : change.delete_jobs) {
    SAB_RETURN_IF_ERROR(database_->Run("DELETE FROM jobs WHERE id = ?", job.value()));
    SAB_RETURN_IF_ERROR(database_->Run("DELETE FROM attempts WHERE job = ?", job.value()));
    SAB_RETURN_IF_ERROR(database_->Run("DELETE FROM requests WHERE job = ?", job.value()));
    SAB_RETURN_IF_ERROR(database_->Run("DELETE FROM checkpoints WHERE job = ?", job.value()));
  }
  for (const WorkerRecord& record : change.put_workers) {
    SAB_RETURN_IF_ERROR(database_->Run("INSERT OR REPLACE INTO workers (id, incarnation, worker) VALUES (?, ?, ?)",
                                       JobPart(record.worker.name()), record.incarnation,
                                       Blob{record.worker.SerializeAsString()}));
  }
  for (const std::string& what : change.add_removals) {
    SAB_RETURN_IF_ERROR(database_->Run("INSERT OR IGNORE INTO removals (what) VALUES (?)", what));
  }
  for (const std::string& what : change.drop_removals) {
    SAB_RETURN_IF_ERROR(database_->Run("DELETE FROM removals WHERE what = ?", what));
  }
  return absl::OkStatus();
}

}  // namespace sab::server
