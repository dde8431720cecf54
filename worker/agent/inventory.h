#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sab/v1/worker_service.pb.h"

namespace sab::agent {

struct Gpu {
  std::string name;
  std::string uuid;
  int64_t memory_bytes = 0;
};

// What a machine offers.
struct Machine {
  std::vector<Gpu> gpus;  // in the order of the PCI bus
  int cores = 1;
  int64_t memory_bytes = 0;
  std::optional<std::string> cuda_visible_devices;  // of the environment
};

// The least of `bytes` and the memory limits of the control groups from `path`, as /proc/self/cgroup has it ("/a/b"),
// up to the root of `mount`; of both versions of control groups.
int64_t LimitedMemory(int64_t bytes, const std::string& mount, const std::string& path);

// How much of `bytes` the trainers on CPU slots may use: a size ("12GiB"), a part ("50%"), "0" for 0, without a bound.
// Empty: all but a sixteenth, which the system and this agent have. InvalidArgument: it is none of these.
absl::StatusOr<int64_t> TrainersMemory(int64_t bytes, const std::string& wish);

// Asks NVML (loaded at run time: no GPU software is needed where there is none), the scheduler's affinity, and the
// control group's memory limit.
Machine ExamineMachine();

struct SlotOptions {
  int cpu_slots = 1;
  std::string device = "auto";  // auto | cpu | cuda
  int threads = 0;              // of a CPU slot; 0: cores / slots
  std::string memory;           // of all CPU slots: as TrainersMemory reads it
};

// One slot a GPU with device auto or cuda (only those CUDA_VISIBLE_DEVICES names; device_index counts among those),
// else `cpu_slots` CPU slots. Pure. FailedPrecondition: device cuda without GPUs.
// InvalidArgument: `memory`.
absl::StatusOr<std::vector<v1::Slot>> MakeSlots(const Machine& machine, const SlotOptions& options);

// The local address of the route to "HOST:PORT"; 127.0.0.1 when that is this machine.
absl::StatusOr<std::string> LocalAddressTowards(const std::string& address);

}  // namespace sab::agent
