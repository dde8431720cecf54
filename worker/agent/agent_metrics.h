#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <array>
#include <memory>
#include <string>

#include "sab/v1/agent_service.pb.h"

namespace sab::agent {

// What an agent shows Prometheus. docs/METRICS.md explains each. Thread-safe.
class AgentMetrics {
 public:
  explicit AgentMetrics(std::shared_ptr<prometheus::Registry> registry);

  // Trainers in each phase, by its number.
  void SetTrainers(const std::array<int, 7>& by_phase);
  void SetSlots(const std::string& device, int count) { slots_.Add({{"device", device}}).Set(count); }
  void CountExit(const std::string& outcome) { exits_.Add({{"outcome", outcome}}).Increment(); }
  void CountSynchronize(const std::string& code) { synchronize_.Add({{"code", code}}).Increment(); }
  // Figures of the trainer on `slot`; resident memory 0 when it has ended.
  void SetSlotStep(int slot, int64_t step);
  void SetSlotLoss(int slot, double loss);
  // Seconds of a step in its own computation and inside collective calls.
  void SetSlotShare(int slot, double compute_seconds, double wait_seconds);
  void SetSlotMemory(int slot, double bytes);
  void ClearSlot(int slot);

 private:
  prometheus::Family<prometheus::Gauge>& trainers_;
  prometheus::Family<prometheus::Gauge>& slots_;
  prometheus::Family<prometheus::Counter>& exits_;
  prometheus::Family<prometheus::Counter>& synchronize_;
  prometheus::Family<prometheus::Gauge>& step_;
  prometheus::Family<prometheus::Gauge>& loss_;
  prometheus::Family<prometheus::Gauge>& memory_;
  prometheus::Family<prometheus::Gauge>& compute_;
  prometheus::Family<prometheus::Gauge>& wait_;

 public:
  prometheus::Counter& relayed_points;
  prometheus::Counter& dropped_points;
  prometheus::Counter& log_lines;
  prometheus::Counter& checkpoints_recorded;
  prometheus::Counter& checkpoints_lost;
  prometheus::Counter& uploaded_bytes;
  prometheus::Counter& downloaded_bytes;
};

}  // namespace sab::agent
