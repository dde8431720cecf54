// Preloaded (LD_PRELOAD): the process's wall clock shows SHIFTED_CLOCK_SECONDS more than the kernel's, as if that had
// been set back since the process last looked. Who waits for a point of the wall clock waits as much longer.
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

#include <cstdlib>

namespace {

long Shift() {
  static const long shift = [] {
    const char* seconds = std::getenv("SHIFTED_CLOCK_SECONDS");
    return seconds == nullptr ? 0 : std::atol(seconds);
  }();
  return shift;
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* time) {
  static const auto real = reinterpret_cast<int (*)(clockid_t, timespec*)>(dlsym(RTLD_NEXT, "clock_gettime"));
  const int result = real(clock, time);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) time->tv_sec += Shift();
  return result;
}

extern "C" int gettimeofday(timeval* time, void*) {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  *time = {now.tv_sec, now.tv_nsec / 1000};
  return 0;
}

extern "C" time_t time(time_t* out) {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}
