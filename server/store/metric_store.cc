#include "server/store/metric_store.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"

namespace sab::server {
namespace {

constexpr int64_t kMaxPageBytes = 3 << 20;
constexpr int64_t kRemovedAtOnce = 20000;

// `series` holds (split, name, length) once: a point costs about 30 bytes. NaN is stored as NULL, which is what SQLite
// makes of it.
const std::vector<std::string>& Schema() {
  static const auto& versions = *new std::vector<std::string>{R"sql(
    CREATE TABLE jobs (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, next_sequence INTEGER NOT NULL,
                       count INTEGER NOT NULL, stride INTEGER NOT NULL);
    CREATE TABLE branches (job INTEGER NOT NULL, attempt INTEGER NOT NULL, start_step INTEGER NOT NULL,
                           PRIMARY KEY (job, attempt)) WITHOUT ROWID;
    CREATE TABLE batches (job INTEGER NOT NULL, attempt INTEGER NOT NULL, rank INTEGER NOT NULL, last INTEGER NOT NULL,
                          PRIMARY KEY (job, attempt, rank)) WITHOUT ROWID;
    CREATE TABLE series (id INTEGER PRIMARY KEY, split TEXT NOT NULL, name TEXT NOT NULL, length INTEGER NOT NULL,
                         UNIQUE (split, name, length));
    CREATE TABLE points (job INTEGER NOT NULL, sequence INTEGER NOT NULL, step INTEGER NOT NULL, series INTEGER NOT NULL,
                         attempt INTEGER NOT NULL, value REAL, PRIMARY KEY (job, sequence)) WITHOUT ROWID;
    CREATE INDEX points_by_step ON points (job, step, sequence);
  )sql"};
  return versions;
}

constexpr char kSurvives[] =
    "NOT EXISTS (SELECT 1 FROM branches b WHERE b.job = p.job AND b.attempt > p.attempt AND b.start_step < p.step)";

std::string SeriesKey(const v1::MetricPoint& point) {
  return absl::StrCat(point.split(), "\n", point.name(), "\n", point.length());
}

v1::MetricPoint PointOf(const Row& row) {
  v1::MetricPoint point;
  point.set_sequence(row.Int(0));
  point.set_step(row.Int(1));
  point.set_attempt(row.Int(3));
  point.set_value(row.IsNull(4) ? std::numeric_limits<double>::quiet_NaN() : row.Double(4));
  return point;
}

absl::Status BadToken() {
  return WithReason(absl::InvalidArgumentError("page_token: is not one that an earlier page gave"), "BAD_PAGE_TOKEN");
}

}  // namespace

MetricStore::MetricStore(std::unique_ptr<Database> writer, std::unique_ptr<Database> reader, Options options)
    : options_(options), writer_(std::move(writer)), reader_(std::move(reader)) {}

absl::StatusOr<std::unique_ptr<MetricStore>> MetricStore::Open(const std::string& path, Options options) {
  SAB_ASSIGN_OR_RETURN(auto writer, Database::Open(path, Database::Sync::kNormal));
  SAB_RETURN_IF_ERROR(Migrate(*writer, Schema()));
  SAB_ASSIGN_OR_RETURN(auto reader, Database::Open(path, Database::Sync::kNormal));
  return std::unique_ptr<MetricStore>(new MetricStore(std::move(writer), std::move(reader), options));
}

absl::StatusOr<MetricStore::JobCounters> MetricStore::CountersOf(const JobId& job) {
  JobCounters counters;
  const auto read = [&](const Row& row) { counters = {row.Int(0), row.Int(1), row.Int(2), row.Int(3)}; };
  constexpr char kSelect[] = "SELECT id, next_sequence, count, stride FROM jobs WHERE name = ?";
  SAB_RETURN_IF_ERROR(writer_->Query(kSelect, read, job.value()));
  if (counters.id == 0) {
    SAB_RETURN_IF_ERROR(
        writer_->Run("INSERT INTO jobs (name, next_sequence, count, stride) VALUES (?, 1, 0, 1)", job.value()));
    SAB_RETURN_IF_ERROR(writer_->Query(kSelect, read, job.value()));
  }
  return counters;
}

absl::Status MetricStore::BeginAttempt(const JobId& job, int64_t attempt, int64_t start_step) {
  MutexLock lock(&write_mutex_);
  return writer_->InTransaction([&]() -> absl::Status {
    write_mutex_.AssertHeld();
    SAB_ASSIGN_OR_RETURN(const JobCounters counters, CountersOf(job));
    return writer_->Run("INSERT OR REPLACE INTO branches (job, attempt, start_step) VALUES (?, ?, ?)", counters.id,
                        attempt, start_step);
  });
}

absl::StatusOr<bool> MetricStore::Append(const MetricSource& source, int64_t batch_id,
                                         absl::Span<const v1::MetricPoint> points) {
  MutexLock lock(&write_mutex_);
  bool stored = false;
  absl::Status status = writer_->InTransaction([&]() -> absl::Status {
    write_mutex_.AssertHeld();
    SAB_ASSIGN_OR_RETURN(JobCounters job, CountersOf(source.job));
    int64_t latest = 0;
    SAB_RETURN_IF_ERROR(writer_->Query(
        "SELECT max(attempt) FROM branches WHERE job = ?", [&](const Row& row) { latest = row.Int(0); }, job.id));
    if (source.attempt < latest) {
      return WithReason(absl::AbortedError(absl::StrCat(source.job.name(), ": attempt ", source.attempt,
                                                        " has been replaced by attempt ", latest)),
                        "STALE_ATTEMPT");
    }
    int64_t last = 0;
    SAB_RETURN_IF_ERROR(writer_->Query(
        "SELECT last FROM batches WHERE job = ? AND attempt = ? AND rank = ?",
        [&](const Row& row) { last = row.Int(0); }, job.id, source.attempt, source.rank));
    if (batch_id <= last) return absl::OkStatus();
    SAB_RETURN_IF_ERROR(writer_->Run("INSERT OR REPLACE INTO batches (job, attempt, rank, last) VALUES (?, ?, ?, ?)",
                                     job.id, source.attempt, source.rank, batch_id));
    SAB_RETURN_IF_ERROR(Insert(job, source.attempt, points));
    if (job.count > options_.max_points) SAB_RETURN_IF_ERROR(Thin(job));
    stored = true;
    return writer_->Run("UPDATE jobs SET next_sequence = ?, count = ?, stride = ? WHERE id = ?", job.next_sequence,
                        job.count, job.stride, job.id);
  });
  // Ids of series that a rolled back transaction made do not exist.
  if (!status.ok()) series_ids_.clear();
  if (!status.ok()) return status;
  return stored;
}

absl::Status MetricStore::Insert(JobCounters& job, int64_t attempt, absl::Span<const v1::MetricPoint> points) {
  for (const v1::MetricPoint& point : points) {
    const bool thinned = point.split() != "eval";
    if (thinned && point.step() % job.stride != 0) continue;
    // Evaluations are kept whole up to twice the bound, which no real job reaches.
    if (job.count >= options_.max_points * 2) continue;
    SAB_ASSIGN_OR_RETURN(const int64_t series, SeriesId(point));
    SAB_RETURN_IF_ERROR(
        writer_->Run("INSERT INTO points (job, sequence, step, series, attempt, value) VALUES (?, ?, ?, ?, ?, ?)",
                     job.id, job.next_sequence, int64_t{point.step()}, series, attempt, point.value()));
    ++job.next_sequence;
    ++job.count;
  }
  return absl::OkStatus();
}

absl::Status MetricStore::Thin(JobCounters& job) {
  while (job.count > options_.max_points / 4 * 3 && job.stride < (int64_t{1} << 30)) {
    job.stride *= 2;
    SAB_RETURN_IF_ERROR(
        writer_->Run("DELETE FROM points WHERE job = ? AND step % ? != 0 AND series NOT IN (SELECT id FROM series "
                     "WHERE split = 'eval')",
                     job.id, job.stride));
    job.count -= writer_->changes();
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> MetricStore::SeriesId(const v1::MetricPoint& point) {
  const std::string key = SeriesKey(point);
  if (auto it = series_ids_.find(key); it != series_ids_.end()) return it->second;
  int64_t id = 0;
  const auto read = [&](const Row& row) { id = row.Int(0); };
  constexpr char kSelect[] = "SELECT id FROM series WHERE split = ? AND name = ? AND length = ?";
  SAB_RETURN_IF_ERROR(writer_->Query(kSelect, read, point.split(), point.name(), int64_t{point.length()}));
  if (id == 0) {
    SAB_RETURN_IF_ERROR(writer_->Run("INSERT INTO series (split, name, length) VALUES (?, ?, ?)", point.split(),
                                     point.name(), int64_t{point.length()}));
    SAB_RETURN_IF_ERROR(writer_->Query(kSelect, read, point.split(), point.name(), int64_t{point.length()}));
  }
  series_ids_[key] = id;
  return id;
}

absl::StatusOr<int64_t> MetricStore::ReaderJobId(const JobId& job) {
  int64_t id = 0;
  SAB_RETURN_IF_ERROR(reader_->Query(
      "SELECT id FROM jobs WHERE name = ?", [&](const Row& row) { id = row.Int(0); }, job.value()));
  return id;
}

absl::Status MetricStore::FillSeries(std::vector<v1::MetricPoint>& points, const std::vector<int64_t>& series) {
  for (size_t i = 0; i < points.size(); ++i) {
    auto it = series_.find(series[i]);
    if (it == series_.end()) {
      SAB_RETURN_IF_ERROR(reader_->Query("SELECT id, split, name, length FROM series", [&](const Row& row) {
        read_mutex_.AssertHeld();
        series_[row.Int(0)] = {row.Bytes(1), row.Bytes(2), row.Int(3)};
      }));
      it = series_.find(series[i]);
      if (it == series_.end()) return absl::InternalError("a figure names a series that does not exist");
    }
    points[i].set_split(it->second.split);
    points[i].set_name(it->second.name);
    points[i].set_length(it->second.length);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::MetricPoint>> MetricStore::ReadAfter(const JobId& job, int64_t after, int64_t limit) {
  static const auto& sql = *new std::string(
      absl::StrCat("SELECT sequence, step, series, attempt, value FROM points p WHERE job = ? AND sequence > ? AND ",
                   kSurvives, " ORDER BY sequence LIMIT ?"));
  MutexLock lock(&read_mutex_);
  SAB_ASSIGN_OR_RETURN(const int64_t id, ReaderJobId(job));
  std::vector<v1::MetricPoint> points;
  std::vector<int64_t> series;
  SAB_RETURN_IF_ERROR(reader_->Query(
      sql,
      [&](const Row& row) {
        points.push_back(PointOf(row));
        series.push_back(row.Int(2));
      },
      id, after, limit));
  SAB_RETURN_IF_ERROR(FillSeries(points, series));
  return points;
}

absl::StatusOr<MetricPage> MetricStore::List(const JobId& job, const MetricQuery& query) {
  int64_t step = -1;
  int64_t sequence = 0;
  if (!query.token.empty()) {
    const std::vector<std::string> parts = absl::StrSplit(query.token, '.');
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &step) || !absl::SimpleAtoi(parts[1], &sequence))
      return BadToken();
  }
  static const auto& sql = *new std::string(absl::StrCat(
      "SELECT sequence, step, series, attempt, value FROM points p WHERE job = ? AND (step, sequence) > (?, ?) AND ",
      kSurvives,
      " AND ((?4 = '' AND ?5 = '') OR series IN (SELECT id FROM series s WHERE (?4 = '' OR s.split = ?4) AND (?5 = '' "
      "OR "
      "s.name = ?5))) ORDER BY step, sequence LIMIT ?6"));
  MutexLock lock(&read_mutex_);
  SAB_ASSIGN_OR_RETURN(const int64_t id, ReaderJobId(job));
  MetricPage page;
  std::vector<int64_t> series;
  SAB_RETURN_IF_ERROR(reader_->Query(
      sql,
      [&](const Row& row) {
        page.points.push_back(PointOf(row));
        series.push_back(row.Int(2));
      },
      id, step, sequence, query.split, query.metric, query.limit + 1));
  SAB_RETURN_IF_ERROR(FillSeries(page.points, series));
  size_t keep = 0;
  for (int64_t bytes = 0; keep < page.points.size() && keep < static_cast<size_t>(query.limit); ++keep) {
    bytes += static_cast<int64_t>(page.points[keep].ByteSizeLong()) + 4;
    if (keep > 0 && bytes > kMaxPageBytes) break;
  }
  if (keep < page.points.size()) {
    const v1::MetricPoint& last = page.points[keep - 1];
    page.next_token = absl::StrCat(last.step(), ".", last.sequence());
    page.points.resize(keep);
  }
  return page;
}

absl::StatusOr<bool> MetricStore::RemoveSome(const JobId& job) {
  MutexLock lock(&write_mutex_);
  bool more = false;
  absl::Status status = writer_->InTransaction([&]() -> absl::Status {
    write_mutex_.AssertHeld();
    SAB_ASSIGN_OR_RETURN(const JobCounters counters, CountersOf(job));
    SAB_RETURN_IF_ERROR(writer_->Run(
        "DELETE FROM points WHERE job = ?1 AND sequence IN (SELECT sequence FROM points WHERE job = ?1 LIMIT ?2)",
        counters.id, kRemovedAtOnce));
    more = writer_->changes() > 0;
    if (more) return absl::OkStatus();
    for (const char* sql :
         {"DELETE FROM batches WHERE job = ?", "DELETE FROM branches WHERE job = ?", "DELETE FROM jobs WHERE id = ?"}) {
      SAB_RETURN_IF_ERROR(writer_->Run(sql, counters.id));
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return more;
}

}  // namespace sab::server
