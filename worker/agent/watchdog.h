#pragma once

#include <string>

#include "absl/time/time.h"
#include "sab/v1/agent_service.pb.h"

namespace sab::agent {

// What a process has done so far, as /proc shows it.
struct ProcessSample {
  bool found = false;
  bool stopped = false;    // by a signal (state T)
  bool in_device = false;  // a thread of it waits for a device (state D)
  absl::Duration active;   // processor time used, and time spent waiting for a processor; of threads that live
};
ProcessSample SampleProcess(int pid);

struct WatchdogLimits {
  absl::Duration least = absl::Seconds(2);  // nothing is judged sooner
  double factor = 3;                        // times the expected
  absl::Duration start = absl::Minutes(2);  // from the start of a process to its first report
  absl::Duration start_at_most = absl::Minutes(20);
  absl::Duration unknown = absl::Minutes(1);      // idle in something of which it is not known how long it takes
  absl::Duration device_wait = absl::Minutes(1);  // idle, but waiting for a disk
};

// Tells a trainer that hangs from one that takes its time. Looks are taken at intervals; time counts only as far as
// looks were taken, so that an agent, or a machine, that stood still for a while blames nobody. Not thread-safe.
//
// Hung is, for at least max(`least`, `factor` times the expected duration):
//  - a process that is stopped by a signal (for `least` alone: nothing legitimate does that);
//  - one that does not report, although a thread of its own does nothing else twice a second, and uses no processor;
//  - one that reports but whose training thread is still in the same computation, and that uses no processor;
// and one that has not reported at all within `start` and uses no processor, or within `start_at_most`. Never hung is
// one that waits for its peers or for word from its agent, nor one that computes, however long: on a slow or crowded
// machine that is healthy.
class Watchdog {
 public:
  explicit Watchdog(WatchdogLimits limits = {}) : limits_(limits) {}

  // A report has come.
  void Hear(const v1::TrainerPulse& pulse);
  // A look, `elapsed` after the last one (at most `longest_gap` of it counts). "" or why it is hung: "uses no processor
  // and has not reported for 2.3s (0.05s is usual), in a step".
  std::string Look(absl::Duration elapsed, const ProcessSample& sample);

  // Time since the last sign of life.
  absl::Duration silence() const { return silence_; }

  static constexpr absl::Duration kInterval = absl::Milliseconds(250);  // between looks

 private:
  absl::Duration Allowed() const;
  std::string Judge() const;

  WatchdogLimits limits_;
  bool heard_ = false;
  v1::TrainerPulse pulse_;
  absl::Duration silence_;    // since the last report, or the start
  absl::Duration stopped_;    // for so long
  absl::Duration idle_;       // without use of a processor
  absl::Duration in_device_;  // of the idle time
  absl::Duration last_active_ = -absl::InfiniteDuration();
};

// "a step", "an evaluation": for texts.
std::string ActivityName(v1::TrainerActivity activity);

}  // namespace sab::agent
