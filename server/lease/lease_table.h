#pragma once

#include <map>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "common/base/ids.h"

namespace sab::server {

// Which workers have been heard of. A worker is late from half its lease on and lost exactly when the lease has passed
// since its last call. Time is passed in (monotonic). Thread-compatible.
class LeaseTable {
 public:
  explicit LeaseTable(absl::Duration lease) : lease_(lease) {}

  absl::Duration lease() const { return lease_; }

  // The worker called at `now`.
  void Renew(const WorkerId& worker, absl::Duration now);

  bool IsLive(const WorkerId& worker, absl::Duration now) const { return now < End(worker); }
  // Live and not late.
  bool IsPrompt(const WorkerId& worker, absl::Duration now) const;
  // When its lease ends; -InfiniteDuration: it never called, or was lost.
  absl::Duration End(const WorkerId& worker) const;

  // Nobody could be heard for so long, until `now`, for a reason that is not the workers': the time does not count.
  void Forgive(absl::Duration held_up, absl::Duration now);

  struct Due {
    std::vector<WorkerId> late;  // newly late, still live
    std::vector<WorkerId> lost;  // newly lost; forgotten until they call again
  };
  // Tells each worker once. In order of id.
  Due TakeDue(absl::Duration now);

  // When TakeDue has something to tell next, if nobody calls; InfiniteDuration: never.
  absl::Duration NextDeadline() const;

 private:
  struct Entry {
    absl::Duration last;
    bool told_late = false;
  };
  const absl::Duration lease_;
  std::map<WorkerId, Entry> entries_;
};

}  // namespace sab::server
