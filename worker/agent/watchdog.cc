#include "worker/agent/watchdog.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sab::agent {
namespace {

// Of a look's interval: what uses less is idle. The thread that reports uses far less.
constexpr double kIdleShare = 0.01;
// What is counted of the time between two looks, in intervals.
constexpr double kLongestGap = 2;

// The state letter of /proc/PID/stat: behind the name, which may hold anything.
char StateOf(const std::string& stat_path) {
  std::ifstream file(stat_path);
  std::stringstream text;
  text << file.rdbuf();
  const std::string content = text.str();
  const size_t end = content.rfind(')');
  return end == std::string::npos || end + 2 >= content.size() ? '?' : content[end + 2];
}

std::string Seconds(absl::Duration duration) {
  return absl::StrFormat("%.3gs", absl::ToDoubleSeconds(duration));
}

}  // namespace

ProcessSample SampleProcess(int pid) {
  ProcessSample sample;
  const std::string process = absl::StrCat("/proc/", pid);
  const char state = StateOf(process + "/stat");
  sample.found = state != '?';
  sample.stopped = state == 'T';
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator(process + "/task", error)) {
    // Nanoseconds on a processor, nanoseconds in the queue for one.
    std::ifstream file(task.path() / "schedstat");
    int64_t ran = 0, waited = 0;
    if (file >> ran >> waited) sample.active += absl::Nanoseconds(ran + waited);
    sample.in_device = sample.in_device || StateOf(task.path() / "stat") == 'D';
  }
  return sample;
}

std::string ActivityName(v1::TrainerActivity activity) {
  switch (activity) {
    case v1::TRAINER_ACTIVITY_PREPARE:
      return "its preparation";
    case v1::TRAINER_ACTIVITY_MEET:
      return "meeting its peers";
    case v1::TRAINER_ACTIVITY_STEP:
      return "a step";
    case v1::TRAINER_ACTIVITY_COLLECTIVE:
      return "a collective call";
    case v1::TRAINER_ACTIVITY_EVALUATION:
      return "an evaluation";
    case v1::TRAINER_ACTIVITY_CHECKPOINT:
      return "a checkpoint";
    default:
      return "its work";
  }
}

void Watchdog::Hear(const v1::TrainerPulse& pulse) {
  heard_ = true;
  pulse_ = pulse;
  silence_ = absl::ZeroDuration();
}

std::string Watchdog::Look(absl::Duration elapsed, const ProcessSample& sample) {
  if (!sample.found) return "";
  const absl::Duration counted = std::min(elapsed, kLongestGap * kInterval);
  silence_ += counted;
  stopped_ = sample.stopped ? stopped_ + counted : absl::ZeroDuration();
  // Threads that ended take their time with them: then nothing is known about this interval.
  const absl::Duration active = sample.active - last_active_;
  const bool idle = active >= absl::ZeroDuration() && active < kIdleShare * elapsed;
  last_active_ = sample.active;
  idle_ = idle ? idle_ + counted : absl::ZeroDuration();
  in_device_ = idle && sample.in_device ? in_device_ + counted : absl::ZeroDuration();
  return Judge();
}

absl::Duration Watchdog::Allowed() const {
  return std::max(limits_.least, limits_.factor * absl::Seconds(pulse_.expected_seconds()));
}

std::string Watchdog::Judge() const {
  if (stopped_ >= limits_.least) return absl::StrCat("is stopped by a signal for ", Seconds(stopped_));
  if (!heard_) {
    const bool late = (silence_ >= limits_.start && idle_ >= limits_.least) || silence_ >= limits_.start_at_most;
    return late ? absl::StrCat("has not reported within ", Seconds(silence_), " of its start") : "";
  }
  // A program that does not say what it is at: nothing more can be told from outside.
  if (pulse_.activity() == v1::TRAINER_ACTIVITY_UNSPECIFIED) return "";
  const bool known = pulse_.expected_seconds() > 0;
  const std::string usual =
      known ? absl::StrCat(" (", Seconds(absl::Seconds(pulse_.expected_seconds())), " is usual)") : "";
  // Reports come from a thread of their own: their silence is judged whatever the training thread is at.
  const absl::Duration patience = in_device_ > absl::ZeroDuration() ? limits_.device_wait : Allowed();
  if (silence_ >= patience && idle_ >= patience) {
    return absl::StrCat("uses no processor and has not reported for ", Seconds(silence_), ", in ",
                        ActivityName(pulse_.activity()), usual);
  }
  const v1::TrainerActivity activity = pulse_.activity();
  const bool computes = activity == v1::TRAINER_ACTIVITY_PREPARE || activity == v1::TRAINER_ACTIVITY_STEP ||
                        activity == v1::TRAINER_ACTIVITY_EVALUATION || activity == v1::TRAINER_ACTIVITY_CHECKPOINT;
  if (!computes) return "";
  const absl::Duration limit = std::max(known ? Allowed() : limits_.unknown,
                                        in_device_ > absl::ZeroDuration() ? limits_.device_wait : absl::ZeroDuration());
  const absl::Duration age = absl::Seconds(pulse_.activity_seconds()) + silence_;
  if (age < limit || idle_ < limit) return "";
  return absl::StrCat("uses no processor and has been in ", ActivityName(activity), " for ", Seconds(age), usual);
}

}  // namespace sab::agent
