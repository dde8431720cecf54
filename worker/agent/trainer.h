#pragma once

#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "worker/agent/cancellation.h"
#include "worker/agent/relay.h"
#include "worker/agent/trainer_manager.h"
#include "worker/agent/watchdog.h"

namespace sab::agent {

// Guarded by the manager's lock, but for what is marked.
struct TrainerManager::Trainer {
  TrainerKey key;
  v1::TrainerAssignment assignment;
  int64_t handle = 0;
  int pid = 0;
  v1::TrainerPhase phase = v1::TRAINER_PHASE_STARTING;  // what it said last
  int64_t step = 0;
  std::string rendezvous;
  std::string stop_reason;
  std::string failure;
  bool permanent = false;
  int64_t skipped_steps = 0;
  bool stop_wanted = false;
  v1::TrainerPulse pulse;
  std::optional<v1::Restoration> restored;
  Watchdog watchdog;
  absl::Duration fault_at;  // once it has ended or hangs: its last sign of life
  bool hung = false;
  bool release_awaited = false;            // it can become another trainer
  std::optional<v1::TrainerId> successor;  // it has become that one

  bool ended = false;
  v1::TrainerPhase end_phase = v1::TRAINER_PHASE_UNSPECIFIED;
  absl::Duration end_visible_at;  // FAILED: at the latest
  int64_t end_sequence = 0;       // first call that carried the end
  bool end_answered = false;

  bool prepared = false;
  absl::Status preparation;
  std::string checkpoint_dir;
  std::string checkpoint_parent;  // this job's in it
  bool upload = false;
  std::string resume_dir;

  std::ofstream log;             // the supervisor thread's own
  Cancellation cancellation;     // thread-safe
  std::unique_ptr<Relay> relay;  // thread-safe; set at the start. Absent: it never ran here
  std::thread preparing;

  ~Trainer() {
    cancellation.Cancel();
    if (preparing.joinable()) preparing.join();
  }
};

}  // namespace sab::agent
