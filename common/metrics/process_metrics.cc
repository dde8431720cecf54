#include "common/metrics/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

namespace sab {
namespace {

prometheus::MetricFamily Family(const char* name, const char* help, prometheus::MetricType type, double value) {
  prometheus::MetricFamily family{name, help, type, {}};
  family.metric.emplace_back();
  if (type == prometheus::MetricType::Counter) {
    family.metric[0].counter.value = value;
  } else {
    family.metric[0].gauge.value = value;
  }
  return family;
}

double ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double OpenFiles() {
  std::error_code error;
  std::filesystem::directory_iterator folder("/proc/self/fd", error);
  return error ? 0 : static_cast<double>(std::distance(folder, std::filesystem::directory_iterator()));
}

// Field 22 of /proc/self/stat (ticks after boot; the name in field 2 may hold spaces) plus btime of /proc/stat.
double StartTimeSeconds() {
  std::ifstream stat("/proc/self/stat"), boot("/proc/stat");
  std::string line, word;
  std::getline(stat, line);
  std::istringstream rest(line.substr(line.rfind(')') + 1));
  double ticks = 0, boot_time = 0;
  for (int field = 3; field < 22; ++field) rest >> word;
  rest >> ticks;
  while (boot >> word && word != "btime") boot.ignore(1 << 20, '\n');
  boot >> boot_time;
  return boot_time + ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

std::vector<prometheus::MetricFamily> ProcessMetrics::Collect() const {
  using prometheus::MetricType;
  std::vector<prometheus::MetricFamily> families;
  families.push_back(Family("process_resident_memory_bytes", "Resident memory", MetricType::Gauge, ResidentBytes()));
  families.push_back(Family("process_cpu_seconds_total", "CPU time used", MetricType::Counter, CpuSeconds()));
  families.push_back(Family("process_open_fds", "Open file descriptors", MetricType::Gauge, OpenFiles()));
  families.push_back(Family("process_start_time_seconds", "When it started", MetricType::Gauge, StartTimeSeconds()));
  families.push_back(Family("sab_build_info", "1, with the version as a label", MetricType::Gauge, 1));
  families.back().metric[0].label.push_back({"version", SAB_VERSION});
  return families;
}

}  // namespace sab
