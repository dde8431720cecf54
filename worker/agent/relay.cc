#include "worker/agent/relay.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/log.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/rpc/trainer_id.h"
#include "worker/agent/checkpoint_transfer.h"

namespace sab::agent {
namespace {

constexpr size_t kMaxBatchPoints = 5'000;
constexpr size_t kMaxBatchLines = 1'000;
constexpr size_t kMaxBatchLineBytes = 1 << 20;
constexpr absl::Duration kCallTimeout = absl::Seconds(20);
constexpr absl::Duration kRecordTimeout = absl::Minutes(10);  // it is verified before the answer
constexpr int kDamageTries = 3;

// Worth the same call again, later.
bool IsPassing(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status) ||
         absl::IsCancelled(status) || absl::IsUnknown(status) || absl::IsInternal(status);
}

// The coordinator's own faults may pass, or not: after this many in a row they count as its answer.
constexpr int kInternalTries = 10;
bool IsItsFault(const absl::Status& status) {
  return absl::IsUnknown(status) || absl::IsInternal(status);
}

bool IsUnwanted(const absl::Status& status) {
  return absl::IsAborted(status) || absl::IsNotFound(status);
}

// Calls until the answer is final. Returns it, or Cancelled.
template <typename Call>
absl::Status Insist(Cancellation* cancellation, absl::Duration timeout, const Call& call) {
  rpc::Backoff backoff;
  for (int faults = 0;;) {
    grpc::ClientContext context;
    rpc::SetDeadline(context, timeout);
    absl::Status status;
    {
      const Cancellation::Scope scope(cancellation, &context);
      status = rpc::FromGrpc(call(&context));
    }
    if (cancellation->cancelled()) return absl::CancelledError("the relay was cancelled");
    if (status.ok() || !IsPassing(status) || (IsItsFault(status) && ++faults >= kInternalTries)) return status;
    if (!cancellation->Sleep(backoff.Next())) return absl::CancelledError("the relay was cancelled");
  }
}

}  // namespace

Relay::Relay(Options options, v1::AgentService::StubInterface* agents, AgentMetrics* metrics,
             std::function<void()> drained)
    : options_(std::move(options)),
      agents_(agents),
      metrics_(metrics),
      on_drained_(std::move(drained)),
      points_(options_.metric_capacity) {
  stream_thread_ = std::thread([this] { RunStream(); });
}

Relay::~Relay() {
  Cancel();
  stream_thread_.join();
  if (checkpoint_thread_.joinable()) checkpoint_thread_.join();
}

void Relay::Cancel() {
  {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    changed_.NotifyAll();
  }
  cancellation_.Cancel();
}

void Relay::AddPoints(const google::protobuf::RepeatedPtrField<v1::MetricPoint>& points, int64_t step) {
  MutexLock lock(&mutex_);
  step_ = std::max(step_, step);
  if (metrics_refused_) return;
  int64_t dropped = 0;
  for (const v1::MetricPoint& point : points) dropped += points_.Add(point);
  metrics_->dropped_points.Increment(static_cast<double>(dropped));
  changed_.NotifyAll();
}

google::protobuf::RepeatedPtrField<v1::MetricPoint> Relay::TakePoints() {
  google::protobuf::RepeatedPtrField<v1::MetricPoint> points;
  MutexLock lock(&mutex_);
  while (!points_.empty()) {
    for (v1::MetricPoint& point : points_.Take(kMaxBatchPoints)) *points.Add() = std::move(point);
  }
  return points;
}

void Relay::AddLines(const std::vector<std::string>& lines) {
  MutexLock lock(&mutex_);
  metrics_->log_lines.Increment(static_cast<double>(lines.size()));
  if (lines_refused_) return;
  for (const std::string& line : lines) {
    lines_.push_back(line);
    if (lines_.size() > options_.line_capacity) {
      lines_.pop_front();
      ++first_line_;
    }
  }
  changed_.NotifyAll();
}

void Relay::AddCheckpoint(v1::Checkpoint checkpoint) {
  MutexLock lock(&mutex_);
  if (cancelled_) return;
  checkpoints_.push_back(std::move(checkpoint));
  if (!checkpoint_thread_.joinable()) checkpoint_thread_ = std::thread([this] { RunCheckpoints(); });
  changed_.NotifyAll();
}

void Relay::Finish() {
  {
    MutexLock lock(&mutex_);
    finished_ = true;
    changed_.NotifyAll();
  }
  CheckDrained();
}

bool Relay::DrainedLocked() const {
  return finished_ &&
         (cancelled_ || (!sending_ && !recording_ && points_.empty() && lines_.empty() && checkpoints_.empty()));
}

bool Relay::IsDrained() {
  MutexLock lock(&mutex_);
  return DrainedLocked();
}

std::string Relay::CheckpointError() {
  MutexLock lock(&mutex_);
  return checkpoint_error_;
}

void Relay::CheckDrained() {
  {
    MutexLock lock(&mutex_);
    if (!DrainedLocked() || drained_told_) return;
    drained_told_ = true;
  }
  on_drained_();
}

void Relay::RunStream() {
  while (true) {
    {
      MutexLock lock(&mutex_);
      sending_ = false;
    }
    CheckDrained();
    {
      MutexLock lock(&mutex_);
      while (!cancelled_ && points_.empty() && lines_.empty()) changed_.Wait(&mutex_);
      if (cancelled_) return;
      sending_ = true;
    }
    if (!SendMetrics() || !SendLines()) return;
    // Lets a batch gather, unless the trainer has ended and its end waits for this.
    const absl::Duration until = SystemClock().Monotonic() + options_.batch_interval;
    MutexLock lock(&mutex_);
    sending_ = false;
    for (absl::Duration now; !cancelled_ && !finished_ && (now = SystemClock().Monotonic()) < until;)
      changed_.WaitFor(&mutex_, until - now);
  }
}

// False: cancelled.
bool Relay::SendMetrics() {
  v1::ReportMetricsRequest request;
  {
    MutexLock lock(&mutex_);
    for (v1::MetricPoint& point : points_.Take(kMaxBatchPoints)) *request.add_points() = std::move(point);
    request.set_step(step_);
  }
  if (request.points().empty()) return true;
  request.set_worker(options_.worker);
  *request.mutable_id() = options_.key.ToId();
  request.set_batch_id(next_batch_++);
  const absl::Status status = Insist(&cancellation_, kCallTimeout, [&](grpc::ClientContext* context) {
    v1::ReportMetricsResponse response;
    return agents_->ReportMetrics(context, request, &response);
  });
  if (absl::IsCancelled(status)) return false;
  if (status.ok()) metrics_->relayed_points.Increment(request.points_size());
  if (!status.ok() && !IsUnwanted(status))
    log::Warning(absl::StrCat(rpc::FormatTrainerId(request.id()), ": figures refused: ", status.ToString()));
  if (IsUnwanted(status)) {
    MutexLock lock(&mutex_);
    metrics_refused_ = true;
    while (!points_.empty()) points_.Take(kMaxBatchPoints);
  }
  return true;
}

// False: cancelled.
bool Relay::SendLines() {
  v1::ReportLogsRequest request;
  {
    MutexLock lock(&mutex_);
    request.set_first_line(first_line_);
    size_t bytes = 0;
    while (!lines_.empty() && request.lines_size() < static_cast<int>(kMaxBatchLines) && bytes < kMaxBatchLineBytes) {
      bytes += lines_.front().size();
      v1::LogLine* line = request.add_lines();
      line->set_attempt(options_.key.attempt);
      line->set_rank(options_.key.rank);
      line->set_text(std::move(lines_.front()));
      lines_.pop_front();
      ++first_line_;
    }
  }
  if (request.lines().empty()) return true;
  request.set_worker(options_.worker);
  *request.mutable_id() = options_.key.ToId();
  const absl::Status status = Insist(&cancellation_, kCallTimeout, [&](grpc::ClientContext* context) {
    v1::ReportLogsResponse response;
    return agents_->ReportLogs(context, request, &response);
  });
  if (absl::IsCancelled(status)) return false;
  if (!status.ok() && !IsUnwanted(status))
    log::Warning(absl::StrCat(rpc::FormatTrainerId(request.id()), ": lines refused: ", status.ToString()));
  if (IsUnwanted(status)) {
    MutexLock lock(&mutex_);
    lines_refused_ = true;
    lines_.clear();
  }
  return true;
}

void Relay::RunCheckpoints() {
  while (true) {
    v1::Checkpoint checkpoint;
    {
      MutexLock lock(&mutex_);
      while (!cancelled_ && checkpoints_.empty() && !finished_) changed_.Wait(&mutex_);
      if (cancelled_ || checkpoints_.empty()) return;
      checkpoint = std::move(checkpoints_.front());
      checkpoints_.pop_front();
      recording_ = true;
    }
    absl::Status status;
    for (int tries = 0; tries < kDamageTries; ++tries) {
      status = Record(checkpoint);
      if (!absl::IsDataLoss(status)) break;
    }
    if (absl::IsCancelled(status)) return;
    if (!status.ok()) log::Error(absl::StrCat(checkpoint.name(), " was not recorded: ", status.ToString()));
    (status.ok() ? metrics_->checkpoints_recorded : metrics_->checkpoints_lost).Increment();
    {
      MutexLock lock(&mutex_);
      recording_ = false;
      checkpoint_error_ = status.ok() ? "" : absl::StrCat(checkpoint.name(), " was not recorded: ", status.message());
    }
    CheckDrained();
  }
}

absl::Status Relay::Record(const v1::Checkpoint& checkpoint) {
  const auto name = ParseCheckpointName(checkpoint.name());
  if (!name.ok()) return name.status();
  const std::string folder = absl::StrCat(options_.checkpoint_parent, "/", name->checkpoint);
  if (options_.upload) {
    v1::UploadCheckpointHeader header;
    header.set_worker(options_.worker);
    *header.mutable_id() = options_.key.ToId();
    const auto count = [this](int64_t bytes) { metrics_->uploaded_bytes.Increment(static_cast<double>(bytes)); };
    rpc::Backoff backoff;
    absl::Status status;
    int faults = 0;
    do {
      status = UploadFiles(agents_, header, checkpoint, folder, &cancellation_, count);
    } while (!status.ok() && IsPassing(status) && !(IsItsFault(status) && ++faults >= kInternalTries) &&
             cancellation_.Sleep(backoff.Next()));
    if (cancellation_.cancelled()) return absl::CancelledError("the relay was cancelled");
    if (!status.ok()) return status;
  }
  v1::RecordCheckpointRequest request;
  request.set_worker(options_.worker);
  *request.mutable_id() = options_.key.ToId();
  *request.mutable_checkpoint() = checkpoint;
  const absl::Status status = Insist(&cancellation_, kRecordTimeout, [&](grpc::ClientContext* context) {
    v1::RecordCheckpointResponse response;
    return agents_->RecordCheckpoint(context, request, &response);
  });
  if (status.ok() && options_.upload) RemoveLocalCopies(checkpoint);
  return status;
}

// The coordinator has it: only the newest stays here, where a restart on this worker finds it without a download.
void Relay::RemoveLocalCopies(const v1::Checkpoint& recorded) {
  std::error_code error;
  if (!recorded_local_.empty()) std::filesystem::remove_all(recorded_local_, error);
  recorded_local_ = absl::StrCat(options_.checkpoint_parent, "/", ParseCheckpointName(recorded.name())->checkpoint);
}

}  // namespace sab::agent
