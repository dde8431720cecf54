#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "sab/v1/metric_service.pb.h"
#include "server/store/sqlite.h"

namespace sab::server {

// Who reports figures.
struct MetricSource {
  JobId job;
  int64_t attempt = 0;
  int32_t rank = 0;
};

// One page of figures.
struct MetricPage {
  std::vector<v1::MetricPoint> points;
  std::string next_token;  // empty: the last page
};

struct MetricQuery {
  std::string split;   // empty: all
  std::string metric;  // empty: all
  int64_t limit = 10000;
  std::string token;
};

// The figures of all jobs: STATE/metrics.db, SQLite in WAL mode with synchronous=NORMAL (a power failure may cost the
// last second of figures, the end of the process costs nothing). Readers see the surviving branch: a point of an
// attempt is hidden when a later attempt starts below its step. Bounded per job: beyond `max_points` training and
// system figures are thinned to every second, fourth … step. Thread-safe; a reader delays no writer.
class MetricStore {
 public:
  struct Options {
    int64_t max_points = 2'000'000;  // per job
  };
  // Errors as Database.
  static absl::StatusOr<std::unique_ptr<MetricStore>> Open(const std::string& path, Options options);

  // From now on earlier attempts of the job are refused, and their points beyond `start_step` are hidden (-1: all of
  // them). Idempotent.
  absl::Status BeginAttempt(const JobId& job, int64_t attempt, int64_t start_step);

  // Stores a batch: in full, or not at all; one already stored is dropped without error. False then. Aborted: a later
  // attempt has begun.
  absl::StatusOr<bool> Append(const MetricSource& source, int64_t batch_id, absl::Span<const v1::MetricPoint> points);

  // Points with a sequence above `after`, in order of sequence, at most `limit`. A job without figures has none.
  absl::StatusOr<std::vector<v1::MetricPoint>> ReadAfter(const JobId& job, int64_t after, int64_t limit);

  // In order of (step, sequence). InvalidArgument: the token. A page holds less than 3 MiB.
  absl::StatusOr<MetricPage> List(const JobId& job, const MetricQuery& query);

  // Removes a part of a deleted job's figures; true while there are more.
  absl::StatusOr<bool> RemoveSome(const JobId& job);

 private:
  struct Series {
    std::string split;
    std::string name;
    int64_t length = 0;
  };
  struct JobCounters {
    int64_t id = 0;
    int64_t next_sequence = 1;
    int64_t count = 0;
    int64_t stride = 1;
  };
  MetricStore(std::unique_ptr<Database> writer, std::unique_ptr<Database> reader, Options options);

  absl::StatusOr<JobCounters> CountersOf(const JobId& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::Status Insert(JobCounters& job, int64_t attempt, absl::Span<const v1::MetricPoint> points)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::Status Thin(JobCounters& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::StatusOr<int64_t> SeriesId(const v1::MetricPoint& point) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::StatusOr<int64_t> ReaderJobId(const JobId& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(read_mutex_);
  absl::Status FillSeries(std::vector<v1::MetricPoint>& points, const std::vector<int64_t>& series)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(read_mutex_);

  const Options options_;
  // Never both held.
  Mutex write_mutex_;
  Mutex read_mutex_;
  const std::unique_ptr<Database> writer_ ABSL_PT_GUARDED_BY(write_mutex_);
  const std::unique_ptr<Database> reader_ ABSL_PT_GUARDED_BY(read_mutex_);
  std::unordered_map<std::string, int64_t> series_ids_ ABSL_GUARDED_BY(write_mutex_);
  std::unordered_map<int64_t, Series> series_ ABSL_GUARDED_BY(read_mutex_);
};

}  // namespace sab::server
