#include "worker/trainer/reporter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace sab::trainer {
namespace {

constexpr absl::Duration kShortest = absl::Milliseconds(50);
constexpr absl::Duration kLongest = absl::Milliseconds(500);
constexpr size_t kBatch = 2000;  // points in a message: far below the bound of 4 MiB

v1::ReportProgressRequest Preparing() {
  v1::ReportProgressRequest state;
  state.set_phase(v1::TRAINER_PHASE_PREPARING);
  return state;
}

}  // namespace

Reporter::Reporter(Options options) : options_(std::move(options)), state_(Preparing()), thread_([this] { Run(); }) {}

Reporter::~Reporter() {
  End();
}

void Reporter::SetPhase(v1::TrainerPhase phase) {
  const MutexLock lock(&mutex_);
  state_.set_phase(phase);
  flush_ = true;
  changed_.NotifyAll();
}

void Reporter::SetRestored(const v1::Restoration& restored) {
  const MutexLock lock(&mutex_);
  *state_.mutable_restored() = restored;
  flush_ = true;
  changed_.NotifyAll();
}

void Reporter::SetStep(int64_t step, int64_t skipped_steps) {
  const MutexLock lock(&mutex_);
  state_.set_step(step);
  state_.set_skipped_steps(skipped_steps);
}

void Reporter::Add(v1::MetricPoint point) {
  const MutexLock lock(&mutex_);
  points_.push_back(std::move(point));
  Trim();
}

void Reporter::Flush() {
  const MutexLock lock(&mutex_);
  flush_ = true;
  changed_.NotifyAll();
}

void Reporter::Succeed(const std::string& stop_reason) {
  {
    const MutexLock lock(&mutex_);
    state_.set_phase(v1::TRAINER_PHASE_SUCCEEDED);
    state_.set_stop_reason(stop_reason);
  }
  End();
}

void Reporter::Fail(const std::string& failure, bool permanent) {
  {
    const MutexLock lock(&mutex_);
    state_.set_phase(v1::TRAINER_PHASE_FAILED);
    state_.set_failure(failure);
    state_.set_permanent(permanent);
  }
  End();
}

std::deque<v1::MetricPoint> Reporter::Abandon() {
  {
    const MutexLock lock(&mutex_);
    abandoned_ = true;
  }
  End();
  const MutexLock lock(&mutex_);
  return std::move(points_);
}

void Reporter::End() {
  {
    const MutexLock lock(&mutex_);
    ending_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void Reporter::Trim() {
  while (points_.size() > options_.max_points) {
    const auto training = std::find_if(points_.begin(), points_.end(),
                                       [](const v1::MetricPoint& point) { return point.split() != "eval"; });
    points_.erase(training == points_.end() ? points_.begin() : training);
  }
}

v1::ReportProgressRequest Reporter::TakeBatch() {
  v1::ReportProgressRequest request = state_;
  for (size_t i = 0; i < kBatch && !points_.empty(); ++i) {
    *request.add_points() = std::move(points_.front());
    points_.pop_front();
  }
  // The end is told with the last of the figures.
  if (!points_.empty() && ending_) request.set_phase(v1::TRAINER_PHASE_TRAINING);
  return request;
}

void Reporter::PutBack(v1::ReportProgressRequest request) {
  for (int i = request.points_size() - 1; i >= 0; --i) points_.push_front(std::move(*request.mutable_points(i)));
  Trim();
}

void Reporter::AwaitNews() {
  const absl::Duration until = options_.clock->Monotonic() + kLongest;
  while (!flush_ && !ending_ && points_.empty()) {
    const absl::Duration left = until - options_.clock->Monotonic();
    if (left <= absl::ZeroDuration()) break;
    changed_.WaitFor(&mutex_, left);
  }
  flush_ = false;
}

void Reporter::Run() {
  absl::Duration last_answer = options_.clock->Monotonic();
  for (;;) {
    v1::ReportProgressRequest request;
    bool last;
    {
      const MutexLock lock(&mutex_);
      AwaitNews();
      if (abandoned_) return;
      request = TakeBatch();
      last = ending_ && points_.empty();
    }
    if (options_.pulse) *request.mutable_pulse() = options_.pulse();
    const absl::Status status = options_.send(request);
    const absl::Duration now = options_.clock->Monotonic();
    if (status.ok() && last) return;
    if (status.ok()) last_answer = now;
    const bool unwanted = absl::IsAborted(status);
    if (unwanted || now - last_answer > options_.patience) {
      {
        const MutexLock lock(&mutex_);
        PutBack(std::move(request));
      }
      options_.on_lost(unwanted
                           ? std::string(status.message())
                           : absl::StrCat("the worker's agent did not answer for ",
                                          absl::FormatDuration(options_.patience), ": ", std::string(status.message())),
                       unwanted);
      return;
    }
    const MutexLock lock(&mutex_);
    if (!status.ok()) PutBack(std::move(request));
    if (!ending_ || !status.ok()) changed_.WaitFor(&mutex_, kShortest);
  }
}

}  // namespace sab::trainer
