#include "server/store/log_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sab::server {
namespace {

constexpr size_t kReadBytes = 256 << 10;
constexpr size_t kMaxLineBytes = 8 << 10;

absl::Status SystemError(const std::string& path) {
  const std::string text = absl::StrCat(path, ": ", strerror(errno));
  if (errno == ENOSPC || errno == EDQUOT) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat(text, "; free disk space")), "DISK_FULL");
  }
  return WithReason(absl::UnavailableError(text), "STORE_UNAVAILABLE");
}

std::string FormatLine(int64_t attempt, int32_t rank, int64_t number, const std::string& text) {
  std::string line = absl::StrCat(attempt, "\t", rank, "\t", number, "\t", text.substr(0, kMaxLineBytes));
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line + "\n";
}

struct ParsedLine {
  v1::LogLine line;
  int64_t number = 0;
};

// False for a line that a crash tore.
bool ParseLine(absl::string_view text, ParsedLine* parsed) {
  int64_t fields[3];
  for (int64_t& field : fields) {
    const size_t tab = text.find('\t');
    if (tab == absl::string_view::npos || !absl::SimpleAtoi(text.substr(0, tab), &field)) return false;
    text.remove_prefix(tab + 1);
  }
  parsed->line.set_attempt(fields[0]);
  parsed->line.set_rank(static_cast<int32_t>(fields[1]));
  parsed->line.set_text(std::string(text));
  parsed->number = fields[2];
  return true;
}

// Complete lines from `offset` on, about kReadBytes; "" at the end or without the file.
std::string ReadLines(const std::string& path, int64_t offset) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  absl::Cleanup close_fd = [fd] { close(fd); };
  std::string bytes(kReadBytes, '\0');
  const ssize_t got = pread(fd, bytes.data(), bytes.size(), offset);
  bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
  const size_t end = bytes.rfind('\n');
  bytes.resize(end == std::string::npos ? 0 : end + 1);
  return bytes;
}

// Calls `each(offset of the line in `bytes`, text)` for every line.
template <typename Each>
void ForEachLine(absl::string_view bytes, Each each) {
  for (size_t at = 0; at < bytes.size();) {
    const size_t end = bytes.find('\n', at);
    each(at, bytes.substr(at, end - at));
    at = end + 1;
  }
}

}  // namespace

std::string LogStore::Path(const JobId& job, int64_t segment) const {
  return absl::StrCat(Folder(job), "/", segment, ".log");
}

std::vector<int64_t> LogStore::ListSegments(const JobId& job) const {
  std::vector<int64_t> segments;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(Folder(job), error)) {
    int64_t number;
    if (entry.path().extension() == ".log" && absl::SimpleAtoi(entry.path().stem().string(), &number))
      segments.push_back(number);
  }
  std::sort(segments.begin(), segments.end());
  return segments;
}

absl::StatusOr<LogStore::JobLog*> LogStore::Open(const JobId& job) {
  auto& log = logs_[job];
  if (log != nullptr) return log.get();
  std::error_code error;
  std::filesystem::create_directories(Folder(job), error);
  if (error) {
    logs_.erase(job);
    return WithReason(absl::UnavailableError(absl::StrCat(Folder(job), ": ", error.message())), "STORE_UNAVAILABLE");
  }
  log = std::make_unique<JobLog>();
  log->segments = ListSegments(job);
  for (int64_t segment : log->segments) {
    log->last_bytes = 0;
    for (;;) {
      const std::string bytes = ReadLines(Path(job, segment), log->last_bytes);
      if (bytes.empty()) break;
      log->last_bytes += static_cast<int64_t>(bytes.size());
      ForEachLine(bytes, [&](size_t, absl::string_view text) {
        ParsedLine parsed;
        if (ParseLine(text, &parsed)) log->next_line[{parsed.line.attempt(), parsed.line.rank()}] = parsed.number + 1;
      });
    }
  }
  // A line torn by a crash would join the next one.
  if (!log->segments.empty() && truncate(Path(job, log->segments.back()).c_str(), log->last_bytes) != 0) {
    absl::Status status = SystemError(Path(job, log->segments.back()));
    logs_.erase(job);
    return status;
  }
  if (log->segments.empty()) log->segments.push_back(0);
  return log.get();
}

void LogStore::Rotate(const JobId& job, JobLog& log) {
  log.segments.push_back(log.segments.back() + 1);
  log.last_bytes = 0;
  while (log.segments.size() > 3) {
    (void)unlink(Path(job, log.segments[1]).c_str());
    log.segments.erase(log.segments.begin() + 1);
  }
}

absl::Status LogStore::Write(const JobId& job, JobLog& log, const std::string& bytes) {
  const int64_t bound = log.segments.back() == 0 ? options_.head_bytes : options_.segment_bytes;
  if (log.last_bytes > 0 && log.last_bytes + static_cast<int64_t>(bytes.size()) > bound) Rotate(job, log);
  const std::string path = Path(job, log.segments.back());
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError(path);
  absl::Cleanup close_fd = [fd] { close(fd); };
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t wrote = write(fd, bytes.data() + done, bytes.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      absl::Status status = SystemError(path);
      (void)!ftruncate(fd, log.last_bytes);
      return status;
    }
    done += static_cast<size_t>(wrote);
  }
  log.last_bytes += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status LogStore::Append(const JobId& job, int64_t attempt, int32_t rank, int64_t first_line,
                              absl::Span<const v1::LogLine> lines) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(JobLog * log, Open(job));
  int64_t& next = log->next_line[{attempt, rank}];
  std::string bytes;
  int64_t number = first_line;
  const auto flush = [&]() -> absl::Status {
    mutex_.AssertHeld();
    if (bytes.empty()) return absl::OkStatus();
    SAB_RETURN_IF_ERROR(Write(job, *log, bytes));
    bytes.clear();
    next = number;
    return absl::OkStatus();
  };
  for (const v1::LogLine& line : lines) {
    if (number >= next) bytes += FormatLine(attempt, rank, number, line.text());
    ++number;
    // Small against the segments, so that a large batch respects the bound.
    if (bytes.size() >= (32 << 10)) SAB_RETURN_IF_ERROR(flush());
  }
  return flush();
}

absl::StatusOr<bool> LogStore::Read(const JobId& job, std::optional<int32_t> rank, LogCursor* cursor,
                                    std::vector<v1::LogLine>* lines) {
  const std::vector<int64_t> segments = ListSegments(job);
  auto it = std::lower_bound(segments.begin(), segments.end(), cursor->segment);
  if (it == segments.end()) return true;
  if (*it != cursor->segment) *cursor = {*it, 0};
  const std::string bytes = ReadLines(Path(job, cursor->segment), cursor->offset);
  if (bytes.empty()) {
    if (std::next(it) == segments.end()) return true;
    *cursor = {*std::next(it), 0};
    return false;
  }
  ForEachLine(bytes, [&](size_t, absl::string_view text) {
    ParsedLine parsed;
    if (ParseLine(text, &parsed) && (!rank.has_value() || parsed.line.rank() == *rank)) {
      lines->push_back(std::move(parsed.line));
    }
  });
  cursor->offset += static_cast<int64_t>(bytes.size());
  return false;
}

absl::StatusOr<LogCursor> LogStore::Tail(const JobId& job, std::optional<int32_t> rank, int64_t count) {
  std::deque<LogCursor> last;
  LogCursor end;
  for (int64_t segment : ListSegments(job)) {
    end = {segment, 0};
    for (;;) {
      const std::string bytes = ReadLines(Path(job, segment), end.offset);
      if (bytes.empty()) break;
      ForEachLine(bytes, [&](size_t at, absl::string_view text) {
        ParsedLine parsed;
        if (!ParseLine(text, &parsed) || (rank.has_value() && parsed.line.rank() != *rank)) return;
        last.push_back({segment, end.offset + static_cast<int64_t>(at)});
        if (last.size() > static_cast<size_t>(count)) last.pop_front();
      });
      end.offset += static_cast<int64_t>(bytes.size());
    }
  }
  return last.empty() ? end : last.front();
}

absl::Status LogStore::Remove(const JobId& job) {
  MutexLock lock(&mutex_);
  logs_.erase(job);
  std::error_code error;
  std::filesystem::remove_all(Folder(job), error);
  if (error)
    return WithReason(absl::UnavailableError(absl::StrCat(Folder(job), ": ", error.message())), "STORE_UNAVAILABLE");
  return absl::OkStatus();
}

}  // namespace sab::server
