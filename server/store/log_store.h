#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "sab/v1/log_service.pb.h"

namespace sab::server {

// Where a reader is in a job's log: a byte of a segment. The default is the beginning.
struct LogCursor {
  int64_t segment = 0;
  int64_t offset = 0;
};

// What trainers printed: STATE/logs/{job}/{segment}.log, lines of all ranks in order of arrival: "ATTEMPT \t RANK \t
// LINE NUMBER \t TEXT \n". Bounded per job: the first segment (64 KiB) and the last two (4 MiB each) are kept. Written
// without syncing: a power failure may cost the last lines. Thread-safe.
class LogStore {
 public:
  struct Options {
    int64_t head_bytes = 64 << 10;
    int64_t segment_bytes = 4 << 20;
  };
  explicit LogStore(std::string folder) : LogStore(std::move(folder), Options()) {}
  LogStore(std::string folder, Options options) : folder_(std::move(folder)), options_(options) {}

  // `first_line` is the number of the first of `lines` since the trainer's start: lines already stored are dropped.
  // `attempt` and `rank` of the lines are ignored for those given. Texts are cut at 8 KiB, newlines in them become
  // spaces. ResourceExhausted: disk full.
  absl::Status Append(const JobId& job, int64_t attempt, int32_t rank, int64_t first_line,
                      absl::Span<const v1::LogLine> lines);

  // The next lines from `cursor` on, at most about 256 KiB of them, of `rank` alone if given; moves the cursor past
  // them. True when the end of what is stored was reached. A reader that was overtaken by the bound goes on with the
  // oldest line kept.
  absl::StatusOr<bool> Read(const JobId& job, std::optional<int32_t> rank, LogCursor* cursor,
                            std::vector<v1::LogLine>* lines);

  // Where the last `count` lines (of `rank`) begin.
  absl::StatusOr<LogCursor> Tail(const JobId& job, std::optional<int32_t> rank, int64_t count);

  // Removes a job's log.
  absl::Status Remove(const JobId& job);

 private:
  struct JobLog {
    std::vector<int64_t> segments;                             // numbers, ascending
    int64_t last_bytes = 0;                                    // of the last segment
    std::map<std::pair<int64_t, int32_t>, int64_t> next_line;  // by (attempt, rank)
  };
  std::string Folder(const JobId& job) const { return folder_ + "/" + job.value(); }
  std::string Path(const JobId& job, int64_t segment) const;
  std::vector<int64_t> ListSegments(const JobId& job) const;
  absl::StatusOr<JobLog*> Open(const JobId& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Write(const JobId& job, JobLog& log, const std::string& bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Rotate(const JobId& job, JobLog& log) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string folder_;
  const Options options_;
  Mutex mutex_;
  std::map<JobId, std::unique_ptr<JobLog>> logs_ ABSL_GUARDED_BY(mutex_);  // of jobs written to since the start
};

}  // namespace sab::server
