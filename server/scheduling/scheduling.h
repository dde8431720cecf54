#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/base/ids.h"
#include "sab/v1/spec.pb.h"

// Who runs where: pure functions of what they are given.
namespace sab::server {

// One slot as the scheduler sees it.
struct SlotView {
  int32_t index = 0;
  bool cuda = false;
  bool free = false;
};

// One worker. Slots are in order of index.
struct WorkerView {
  WorkerId id;
  absl::Duration lease_end;  // monotonic; nothing is placed on it from then on
  bool accepts = true;       // false: its present state is not known well enough to place anything
  std::vector<SlotView> slots;
};

// What shall be placed: `replicas` slots of one kind of device.
struct GangRequest {
  int64_t replicas = 1;
  v1::DeviceKind device = v1::DEVICE_KIND_AUTO;
};

// One rank's place; rank = position in GangDecision::placements.
struct RankPlacement {
  WorkerId worker;
  int32_t slot = 0;
};

struct GangDecision {
  std::vector<RankPlacement> placements;  // empty when it cannot start now
  std::string reason;                     // why, in words a user can act on
  bool cuda = false;                      // the kind of device it runs on or waits for
  bool fits = false;                      // the live workers have enough such slots, free or not
};

// Chooses where the gang `request` would run: all ranks or none. `auto` means GPUs when the live workers have enough of
// them (busy or not), CPUs otherwise. One worker that holds the whole gang is preferred, the one with the fewest free
// slots; else the workers with most free slots, so that few take part. Pure: the same snapshot at the same `now` gives
// the same answer; ties go to the lower worker id.
GangDecision DecideGang(const GangRequest& request, absl::Span<const WorkerView> workers, absl::Duration now);

// A job that waits for slots.
struct QueueEntry {
  JobId job;
  int64_t priority = 0;     // higher first
  int64_t create_time = 0;  // microseconds; earlier first
  GangRequest request;
};

// Priority, then creation, then id.
bool RunsBefore(const QueueEntry& a, const QueueEntry& b);

// What becomes of one waiting job.
struct QueueDecision {
  JobId job;
  GangDecision gang;
};

// Decides for all waiting jobs, in the order of the queue (`queue` need not be sorted). A job that fits the cluster but
// must wait for busy slots keeps the jobs behind it from those of its kind of device, so that large gangs do not
// starve; a job that cannot fit blocks no one.
std::vector<QueueDecision> DecideQueue(std::vector<QueueEntry> queue, std::vector<WorkerView> workers,
                                       absl::Duration now);

}  // namespace sab::server
