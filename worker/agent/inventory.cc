#include "worker/agent/inventory.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/memory_sizes.h"
#include "common/base/status.h"

namespace sab::agent {
namespace {

// The few functions of NVML that are needed, by its stable C interface (nvml.h).
class Nvml {
 public:
  Nvml() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    const auto init = Find<int (*)()>("nvmlInit_v2");
    ready_ = init != nullptr && init() == 0;
  }
  ~Nvml() {
    if (ready_) {
      if (const auto shutdown = Find<int (*)()>("nvmlShutdown")) shutdown();
    }
    if (library_ != nullptr) dlclose(library_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  std::vector<Gpu> Gpus() {
    std::vector<Gpu> gpus;
    const auto count_of = Find<int (*)(unsigned*)>("nvmlDeviceGetCount_v2");
    const auto device_at = Find<int (*)(unsigned, void**)>("nvmlDeviceGetHandleByIndex_v2");
    const auto name_of = Find<int (*)(void*, char*, unsigned)>("nvmlDeviceGetName");
    const auto uuid_of = Find<int (*)(void*, char*, unsigned)>("nvmlDeviceGetUUID");
    const auto memory_of = Find<int (*)(void*, MemoryInfo*)>("nvmlDeviceGetMemoryInfo");
    unsigned count = 0;
    if (!ready_ || !count_of || !device_at || !name_of || !uuid_of || !memory_of || count_of(&count) != 0) return gpus;
    for (unsigned i = 0; i < count; ++i) {
      void* device = nullptr;
      char name[96] = "";
      char uuid[96] = "";
      MemoryInfo memory{};
      if (device_at(i, &device) != 0) continue;
      name_of(device, name, sizeof name);
      uuid_of(device, uuid, sizeof uuid);
      memory_of(device, &memory);
      gpus.push_back({name, uuid, static_cast<int64_t>(memory.total)});
    }
    return gpus;
  }

 private:
  struct MemoryInfo {
    unsigned long long total, free, used;
  };
  template <typename Function>
  Function Find(const char* name) {
    return library_ == nullptr ? nullptr : reinterpret_cast<Function>(dlsym(library_, name));
  }
  void* const library_;
  bool ready_ = false;
};

int64_t MemoryBytes() {
  const std::string mount = "/sys/fs/cgroup";
  int64_t bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1].empty()) bytes = LimitedMemory(bytes, mount, parts[2]);
    if (parts[1] == "memory") bytes = LimitedMemory(bytes, mount + "/memory", parts[2]);
  }
  return bytes;
}

// The GPUs that the trainers' CUDA will see, in its order. An entry that is neither index nor UUID (a MIG slice) is a
// GPU of its own, of unknown size.
std::vector<Gpu> VisibleGpus(const Machine& machine) {
  if (!machine.cuda_visible_devices.has_value()) return machine.gpus;
  std::vector<Gpu> visible;
  for (const auto& part : absl::StrSplit(*machine.cuda_visible_devices, ',', absl::SkipWhitespace())) {
    const std::string entry(part);
    int index = 0;
    if (absl::SimpleAtoi(entry, &index)) {
      if (index < 0 || index >= static_cast<int>(machine.gpus.size()))
        break;  // as CUDA does: nothing behind an invalid one
      visible.push_back(machine.gpus[static_cast<size_t>(index)]);
      continue;
    }
    const auto found = std::find_if(machine.gpus.begin(), machine.gpus.end(),
                                    [&](const Gpu& gpu) { return gpu.uuid.rfind(entry, 0) == 0; });
    visible.push_back(found != machine.gpus.end() ? *found : Gpu{entry, entry, 0});
  }
  return visible;
}

}  // namespace

int64_t LimitedMemory(int64_t bytes, const std::string& mount, const std::string& path) {
  std::string group = path == "/" ? "" : path;
  while (true) {
    for (const char* file : {"/memory.max", "/memory.limit_in_bytes"}) {
      std::ifstream limit(absl::StrCat(mount, group, file));
      int64_t bound = 0;
      if (limit >> bound && bound > 0) bytes = std::min(bytes, bound);
    }
    if (group.empty()) return bytes;
    group.resize(std::min(group.size(), group.rfind('/')));
  }
}

absl::StatusOr<int64_t> TrainersMemory(int64_t bytes, const std::string& wish) {
  if (wish.empty()) return bytes - bytes / 16;
  if (wish == "0") return 0;
  absl::string_view part(wish);
  int percent = 0;
  if (absl::ConsumeSuffix(&part, "%") && absl::SimpleAtoi(part, &percent) && percent >= 1 && percent <= 100) {
    return bytes / 100 * percent;
  }
  const absl::StatusOr<int64_t> size = ParseMemory(wish);
  if (size.ok()) return size;
  return absl::InvalidArgumentError(absl::StrCat(
      "--memory: must be a size (12GiB), a part of the machine's (50%) or 0 for no bound, got \"", wish, "\""));
}

Machine ExamineMachine() {
  Machine machine;
  machine.gpus = Nvml().Gpus();
  cpu_set_t set;
  machine.cores =
      sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  machine.memory_bytes = MemoryBytes();
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) machine.cuda_visible_devices = visible;
  return machine;
}

absl::StatusOr<std::vector<v1::Slot>> MakeSlots(const Machine& machine, const SlotOptions& options) {
  const std::vector<Gpu> gpus = options.device == "cpu" ? std::vector<Gpu>() : VisibleGpus(machine);
  if (options.device == "cuda" && gpus.empty()) {
    return absl::FailedPreconditionError(
        "--device cuda: NVML finds no GPU on this machine; install the driver, or use --device cpu");
  }
  const int count = gpus.empty() ? options.cpu_slots : static_cast<int>(gpus.size());
  const int threads = options.threads > 0 ? options.threads : std::max(1, machine.cores / std::max(1, count));
  SAB_ASSIGN_OR_RETURN(const int64_t memory, TrainersMemory(machine.memory_bytes, options.memory));
  std::vector<v1::Slot> slots;
  for (int i = 0; i < count; ++i) {
    v1::Slot& slot = slots.emplace_back();
    slot.set_index(i);
    slot.set_threads(threads);
    slot.set_device(gpus.empty() ? "cpu" : "cuda");
    slot.set_device_index(gpus.empty() ? 0 : i);
    slot.set_device_name(gpus.empty() ? "CPU" : gpus[static_cast<size_t>(i)].name);
    // Together they have all of it.
    slot.set_memory_bytes(gpus.empty() ? memory / count + (i < memory % count)
                                       : gpus[static_cast<size_t>(i)].memory_bytes);
  }
  return slots;
}

absl::StatusOr<std::string> LocalAddressTowards(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("coordinator address: must have the form HOST:PORT, got \"", address, "\""));
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), address.substr(colon + 1).c_str(), &hints, &found); error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot resolve ", host, ": ", gai_strerror(error), "; or name this host with --advertise"));
  }
  char text[NI_MAXHOST] = "";
  const int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_storage local{};
  socklen_t size = sizeof local;
  // Connecting a datagram socket sends nothing; it only asks for the route.
  const bool routed =
      fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) == 0 &&
      getnameinfo(reinterpret_cast<sockaddr*>(&local), size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0;
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  if (!routed)
    return absl::UnavailableError(absl::StrCat("there is no route to ", address, "; name this host with --advertise"));
  return std::string(std::strcmp(text, "::1") == 0 ? "127.0.0.1" : text);
}

}  // namespace sab::agent
