#pragma once

#include <prometheus/registry.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace sab {

// Serves /metrics (Prometheus text format), /healthz (200 while the process lives) and /readyz (200 when `ready`
// returns "", else 503 with that text). Must not be used in a process that loads LibTorch: see docs/ARCHITECTURE.md.
class MetricsServer {
 public:
  struct Options {
    std::string listen;                  // "HOST:PORT"; port 0 picks a free one
    std::function<std::string()> ready;  // "" or what is missing; called on a server thread
  };
  // Unavailable: the address cannot be listened on, with the system's reason.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(std::shared_ptr<prometheus::Registry> registry,
                                                              Options options);
  virtual ~MetricsServer() = default;
  // "HOST:PORT" as bound.
  virtual const std::string& address() const = 0;
};

}  // namespace sab
