#include "worker/agent/reconcile.h"

#include <map>
#include <set>

namespace sab::agent {

v1::TrainerId TrainerKey::ToId() const {
  v1::TrainerId id;
  id.set_job(job);
  id.set_attempt(attempt);
  id.set_rank(rank);
  return id;
}

namespace {

// The assignment that a process of `trainer` may go on as.
const v1::TrainerAssignment* Successor(const std::vector<v1::TrainerAssignment>& desired,
                                       const ActualTrainer& trainer) {
  for (const v1::TrainerAssignment& assignment : desired) {
    if (assignment.slot() == trainer.slot && assignment.id().job() == trainer.key.job &&
        assignment.id().attempt() > trainer.key.attempt) {
      return &assignment;
    }
  }
  return nullptr;
}

}  // namespace

Actions Reconcile(const std::vector<v1::TrainerAssignment>& desired, const std::vector<ActualTrainer>& actual,
                  int32_t slots) {
  Actions actions;
  std::set<TrainerKey> wanted;
  for (const v1::TrainerAssignment& assignment : desired) wanted.insert(TrainerKey::Of(assignment.id()));
  std::set<TrainerKey> known;
  std::set<int32_t> taken;
  for (const ActualTrainer& trainer : actual) {
    known.insert(trainer.key);
    const bool ended = trainer.state == ActualTrainer::State::kEnded;
    if (!ended) taken.insert(trainer.slot);
    if (wanted.contains(trainer.key)) continue;
    if (trainer.state == ActualTrainer::State::kRunning) {
      const v1::TrainerAssignment* next = trainer.can_go_on ? Successor(desired, trainer) : nullptr;
      if (next == nullptr) {
        actions.stop.push_back(trainer.key);
      } else if (known.insert(TrainerKey::Of(next->id())).second) {
        actions.hand_over.emplace_back(trainer.key, *next);
      }
    }
    if (ended && trainer.end_answered) actions.forget.push_back(trainer.key);
  }
  for (const v1::TrainerAssignment& assignment : desired) {
    if (!known.insert(TrainerKey::Of(assignment.id())).second) continue;
    if (assignment.slot() < 0 || assignment.slot() >= slots) {
      actions.refuse.push_back(assignment);
    } else if (taken.insert(assignment.slot()).second) {
      actions.start.push_back(assignment);
    }
  }
  return actions;
}

}  // namespace sab::agent
