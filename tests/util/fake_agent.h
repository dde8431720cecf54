#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sab/v1/agent_service.pb.h"

namespace sab::testing_util {

// The agent's side of Synchronize without processes: trainers are entries whose phase a test sets. It obeys what it is
// told: desired trainers exist (STARTING) after Apply, undesired ones are gone.
class FakeAgent {
 public:
  FakeAgent(std::string worker, int slots, std::string device = "cpu")
      : worker_(std::move(worker)), device_(std::move(device)), slots_(slots) {}

  // Of each slot.
  void SetMemory(int64_t bytes) { memory_bytes_ = bytes; }

  v1::SynchronizeRequest Request() {
    v1::SynchronizeRequest request;
    request.set_worker(worker_);
    request.set_incarnation(incarnation_);
    request.set_sequence(++sequence_);
    request.set_host("localhost");
    request.set_known_version(known_version_);
    for (int i = 0; i < slots_; ++i) {
      v1::Slot& slot = *request.add_slots();
      slot.set_index(i);
      slot.set_device(device_);
      slot.set_memory_bytes(memory_bytes_);
    }
    for (const auto& [key, trainer] : trainers_) *request.add_trainers() = trainer;
    return request;
  }

  void Apply(const v1::SynchronizeResponse& response) {
    known_version_ = response.desired_version();
    std::map<Key, v1::TrainerStatus> next;
    assignments_.clear();
    for (const v1::TrainerAssignment& assignment : response.desired()) {
      const Key key = KeyOf(assignment.id());
      assignments_[key] = assignment;
      auto it = trainers_.find(key);
      if (it != trainers_.end()) {
        next[key] = it->second;
      } else {
        next[key].set_phase(v1::TRAINER_PHASE_STARTING);
        *next[key].mutable_id() = assignment.id();
      }
    }
    trainers_ = std::move(next);
  }

  // Every trainer does `steps` more; with `last` done it has succeeded.
  void Train(int64_t steps, int64_t last) {
    for (auto& [key, trainer] : trainers_) {
      trainer.set_step(std::min(last, trainer.step() + steps));
      trainer.set_phase(trainer.step() == last ? v1::TRAINER_PHASE_SUCCEEDED : v1::TRAINER_PHASE_TRAINING);
      trainer.set_stop_reason(trainer.step() == last ? "steps" : "");
    }
  }

  // The agent's process was killed and started again: its trainers are gone.
  void Restart() {
    ++incarnation_;
    sequence_ = 0;
    known_version_ = 0;
    trainers_.clear();
    assignments_.clear();
  }

  // The trainer of `rank` of the only attempt of the job here; the entry must exist.
  v1::TrainerStatus& Trainer(const std::string& job, int32_t rank = 0) {
    for (auto& [key, trainer] : trainers_) {
      if (std::get<0>(key) == job && std::get<2>(key) == rank) return trainer;
    }
    static auto& none = *new v1::TrainerStatus();
    return none;
  }
  bool Runs(const std::string& job) const {
    for (const auto& [key, trainer] : trainers_) {
      if (std::get<0>(key) == job) return true;
    }
    return false;
  }
  v1::TrainerAssignment Assignment(const std::string& job, int32_t rank = 0) const {
    for (const auto& [key, assignment] : assignments_) {
      if (std::get<0>(key) == job && std::get<2>(key) == rank) return assignment;
    }
    return {};
  }
  const std::string& worker() const { return worker_; }
  int64_t incarnation() const { return incarnation_; }
  size_t size() const { return trainers_.size(); }

 private:
  using Key = std::tuple<std::string, int64_t, int32_t>;
  static Key KeyOf(const v1::TrainerId& id) { return {id.job(), id.attempt(), id.rank()}; }

  const std::string worker_;
  const std::string device_;
  const int slots_;
  int64_t memory_bytes_ = 0;
  int64_t incarnation_ = 1;
  int64_t sequence_ = 0;
  int64_t known_version_ = 0;
  std::map<Key, v1::TrainerStatus> trainers_;
  std::map<Key, v1::TrainerAssignment> assignments_;
};

}  // namespace sab::testing_util
