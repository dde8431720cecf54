#include "worker/agent/agent_metrics.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace sab::agent {
namespace {

prometheus::Family<prometheus::Gauge>& Gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
prometheus::Family<prometheus::Counter>& Counter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

std::string PhaseLabel(int phase) {
  constexpr size_t kPrefix = sizeof("TRAINER_PHASE_") - 1;
  return absl::AsciiStrToLower(v1::TrainerPhase_Name(phase).substr(kPrefix));
}

prometheus::Labels SlotLabel(int slot) {
  return {{"slot", absl::StrCat(slot)}};
}

}  // namespace

AgentMetrics::AgentMetrics(std::shared_ptr<prometheus::Registry> registry)
    : trainers_(Gauge(*registry, "sab_worker_trainers", "Trainers the agent knows, by state")),
      slots_(Gauge(*registry, "sab_worker_slots", "Slots, by device")),
      exits_(Counter(*registry, "sab_worker_trainer_exits_total", "Trainer processes that ended, by outcome")),
      synchronize_(Counter(*registry, "sab_worker_synchronize_total", "Answers to Synchronize, by status code")),
      step_(Gauge(*registry, "sab_worker_slot_step", "Last step reported by the trainer on a slot")),
      loss_(Gauge(*registry, "sab_worker_slot_loss", "Last training loss reported by the trainer on a slot")),
      memory_(Gauge(*registry, "sab_worker_trainer_resident_memory_bytes", "Resident memory of the trainer on a slot")),
      compute_(Gauge(*registry, "sab_worker_slot_compute_seconds",
                     "Mean seconds of a step that the trainer on a slot computes")),
      wait_(
          Gauge(*registry, "sab_worker_slot_wait_seconds",
                "Mean seconds of a step that the trainer on a slot spends in collective calls, waiting for its peers")),
      relayed_points(
          Counter(*registry, "sab_worker_relayed_points_total", "Figures passed on to the coordinator").Add({})),
      dropped_points(
          Counter(*registry, "sab_worker_dropped_points_total", "Training figures dropped because the queue was full")
              .Add({})),
      log_lines(Counter(*registry, "sab_worker_log_lines_total", "Lines that trainers printed").Add({})),
      checkpoints_recorded(
          Counter(*registry, "sab_worker_checkpoints_recorded_total", "Checkpoints the coordinator has recorded")
              .Add({})),
      checkpoints_lost(
          Counter(*registry, "sab_worker_checkpoints_lost_total", "Checkpoints that could not be recorded").Add({})),
      uploaded_bytes(
          Counter(*registry, "sab_worker_checkpoint_upload_bytes_total", "Bytes of checkpoints sent").Add({})),
      downloaded_bytes(
          Counter(*registry, "sab_worker_checkpoint_download_bytes_total", "Bytes of checkpoints fetched").Add({})) {
  SetTrainers({});
  // From 0, so that increase() sees the first one of each.
  for (const char* outcome : {"succeeded", "failed", "stopped"}) exits_.Add({{"outcome", outcome}});
}

void AgentMetrics::SetTrainers(const std::array<int, 7>& by_phase) {
  for (int phase = 1; phase < 7; ++phase)
    trainers_.Add({{"state", PhaseLabel(phase)}}).Set(by_phase[static_cast<size_t>(phase)]);
}

void AgentMetrics::SetSlotStep(int slot, int64_t step) {
  step_.Add(SlotLabel(slot)).Set(static_cast<double>(step));
}
void AgentMetrics::SetSlotLoss(int slot, double loss) {
  loss_.Add(SlotLabel(slot)).Set(loss);
}
void AgentMetrics::SetSlotMemory(int slot, double bytes) {
  memory_.Add(SlotLabel(slot)).Set(bytes);
}

void AgentMetrics::SetSlotShare(int slot, double compute_seconds, double wait_seconds) {
  compute_.Add(SlotLabel(slot)).Set(compute_seconds);
  wait_.Add(SlotLabel(slot)).Set(wait_seconds);
}

void AgentMetrics::ClearSlot(int slot) {
  for (auto* family : {&step_, &loss_, &memory_, &compute_, &wait_}) family->Remove(&family->Add(SlotLabel(slot)));
}

}  // namespace sab::agent
