#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sab/v1/agent_service.pb.h"

namespace sab::agent {

// Names one trainer for good.
struct TrainerKey {
  std::string job;  // "jobs/{job}"
  int64_t attempt = 0;
  int32_t rank = 0;

  static TrainerKey Of(const v1::TrainerId& id) { return {id.job(), id.attempt(), id.rank()}; }
  v1::TrainerId ToId() const;
  friend auto operator<=>(const TrainerKey&, const TrainerKey&) = default;
};

// A trainer this agent knows.
struct ActualTrainer {
  enum class State { kRunning, kStopping, kEnded };
  TrainerKey key;
  int32_t slot = 0;
  State state = State::kRunning;
  bool end_answered = false;  // ended, and the coordinator has answered a call that said so
  bool can_go_on = false;     // running, and its process can become the same job's next trainer in this slot
};

// What makes the trainers match. Every list is in the order of its input.
struct Actions {
  std::vector<v1::TrainerAssignment> start;
  std::vector<v1::TrainerAssignment> refuse;                            // their slot does not exist
  std::vector<std::pair<TrainerKey, v1::TrainerAssignment>> hand_over;  // the process of the first becomes the second
  std::vector<TrainerKey> stop;
  std::vector<TrainerKey> forget;  // ended, and nobody needs to hear of it any more
};

// Pure. A running trainer whose slot the same job's next attempt wants hands its process over, if it can. A trainer
// that ended is never started again; one whose slot is still taken is left out and starts once the slot's process is
// gone.
Actions Reconcile(const std::vector<v1::TrainerAssignment>& desired, const std::vector<ActualTrainer>& actual,
                  int32_t slots);

}  // namespace sab::agent
