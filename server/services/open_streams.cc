#include "server/services/open_streams.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace sab::server {

absl::Status OpenStreams::Add(const std::shared_ptr<Stream>& stream) {
  MutexLock lock(&mutex_);
  if (entries_.size() >= options_.most) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                          options_.most, " streams are open, which is all there may be: close some and try again")),
                      "TOO_MANY_STREAMS");
  }
  entries_[stream.get()].stream = stream;
  return absl::OkStatus();
}

void OpenStreams::Remove(const Stream* stream) {
  MutexLock lock(&mutex_);
  entries_.erase(stream);
}

void OpenStreams::WriteBegins(const Stream* stream) {
  MutexLock lock(&mutex_);
  if (auto it = entries_.find(stream); it != entries_.end()) it->second.since = clock_->Monotonic();
}

void OpenStreams::WriteEnded(const Stream* stream) {
  MutexLock lock(&mutex_);
  if (auto it = entries_.find(stream); it != entries_.end()) it->second.since = absl::InfiniteDuration();
}

absl::Duration OpenStreams::CutStalled() {
  const absl::Duration now = clock_->Monotonic();
  std::vector<std::shared_ptr<Stream>> stalled;
  {
    MutexLock lock(&mutex_);
    for (auto& [key, entry] : entries_) {
      if (now - entry.since < options_.stall_limit) continue;
      entry.since = absl::InfiniteDuration();
      if (auto stream = entry.stream.lock()) stalled.push_back(std::move(stream));
    }
    cut_ += static_cast<int64_t>(stalled.size());
  }
  for (const auto& stream : stalled) stream->Cut();
  if (!stalled.empty()) {
    log::Warning(absl::StrCat(stalled.size(), " streams were cut: their readers took nothing for ",
                              absl::FormatDuration(options_.stall_limit)));
  }
  return options_.stall_limit / 4;
}

int64_t OpenStreams::cut() const {
  MutexLock lock(&mutex_);
  return cut_;
}

}  // namespace sab::server
