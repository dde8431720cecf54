#pragma once

#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"

namespace sab::server {

// The server streams that are open, so that readers who take nothing hold up nobody: there are so many at most, each
// has one message under way, and one whose message is not taken in time is cut. Thread-safe.
class OpenStreams {
 public:
  class Stream {
   public:
    virtual ~Stream() = default;
    // Ends the RPC, whatever it waits for.
    virtual void Cut() = 0;
  };
  struct Options {
    absl::Duration stall_limit = absl::Minutes(1);  // for one message
    size_t most = 2000;
  };
  OpenStreams(Options options, const Clock* clock) : options_(options), clock_(clock) {}

  // ResourceExhausted (TOO_MANY_STREAMS): all places are taken; nothing is to be removed then.
  absl::Status Add(const std::shared_ptr<Stream>& stream);
  void Remove(const Stream* stream);
  // A message of the stream is under way from now on; it has been taken.
  void WriteBegins(const Stream* stream);
  void WriteEnded(const Stream* stream);

  // Cuts those that have stalled, each once. Returns the time until it is to be called again.
  absl::Duration CutStalled();
  // Cut so far.
  int64_t cut() const;

 private:
  struct Entry {
    std::weak_ptr<Stream> stream;
    absl::Duration since = absl::InfiniteDuration();  // monotonic; infinite: nothing is under way
  };
  const Options options_;
  const Clock* const clock_;
  mutable Mutex mutex_;
  std::map<const Stream*, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  int64_t cut_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sab::server
