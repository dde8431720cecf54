#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <vector>

namespace sab {

// This process's own figures under the names that Prometheus client libraries use (process_resident_memory_bytes,
// process_cpu_seconds_total, process_open_fds, process_start_time_seconds) and sab_build_info{version}. Read from /proc
// at each Collect. Thread-safe.
class ProcessMetrics : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override;
};

}  // namespace sab
