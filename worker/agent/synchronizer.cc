#include "worker/agent/synchronizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/rpc/status.h"

namespace sab::agent {
namespace {

constexpr size_t kMaxCalls = 3;  // in flight; each newer one releases the older ones
constexpr absl::Duration kFirstHold = absl::Seconds(1);
// Over the hold, until a call counts as lost; a part of the lease once that is known.
constexpr absl::Duration kLeastSlack = absl::Seconds(1), kMostSlack = absl::Seconds(4);
// The same of a call that only asks whether the coordinator is back, and how long after it the next one does: a worker
// whose packets are dropped for a while is to be heard of soon after.
constexpr absl::Duration kLeastProbe = absl::Milliseconds(500), kMostProbe = absl::Seconds(2);
constexpr absl::Duration kProbePause = absl::Milliseconds(100);
// After its deadline, until a call is cancelled because gRPC has not noticed.
constexpr absl::Duration kLate = absl::Milliseconds(200);
// An answer without news that came sooner than this was not held: the next call waits.
constexpr absl::Duration kHeld = absl::Milliseconds(200);

// Every call renews the lease: what is left of it when packets begin to be dropped is all but so much.
absl::Duration HoldOf(absl::Duration lease) {
  return std::max(lease / 10, std::min(lease / 5, absl::Milliseconds(300)));
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  const int64_t nanos = absl::ToInt64Nanoseconds(duration);
  proto.set_seconds(nanos / 1'000'000'000);
  proto.set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  return proto;
}

absl::Duration FromProto(const google::protobuf::Duration& proto) {
  return absl::Seconds(proto.seconds()) + absl::Nanoseconds(proto.nanos());
}

}  // namespace

Synchronizer::Synchronizer(Options options, std::function<std::unique_ptr<Stub>()> connect, TrainerManager* manager,
                           AgentMetrics* metrics, const Clock* clock, std::function<void()> first_answer)
    : options_(std::move(options)),
      connect_(std::move(connect)),
      manager_(manager),
      metrics_(metrics),
      clock_(clock),
      first_answer_(std::move(first_answer)),
      agents_(connect_()),
      backoff_({.initial = absl::Milliseconds(100), .max = absl::Milliseconds(500)}) {}

void Synchronizer::Stop() {
  MutexLock lock(&mutex_);
  stop_ = true;
  for (const auto& call : calls_) call->context.TryCancel();
  changed_condition_.NotifyAll();
}

void Synchronizer::Changed() {
  MutexLock lock(&mutex_);
  changed_ = true;
  changed_condition_.NotifyAll();
}

std::string Synchronizer::WhyNotReady() {
  MutexLock lock(&mutex_);
  const absl::Duration age = clock_->Monotonic() - last_answer_;
  if (age <= lease_) return "";
  return age == absl::InfiniteDuration()
             ? last_error_
             : absl::StrCat("the coordinator's last answer is ", absl::FormatDuration(age), " old: ", last_error_);
}

v1::SynchronizeRequest Synchronizer::MakeRequest() {
  v1::SynchronizeRequest request;
  request.set_worker(options_.worker);
  request.set_incarnation(options_.incarnation);
  request.set_sequence(++sequence_);
  request.set_host(options_.host);
  for (const v1::Slot& slot : options_.slots) *request.add_slots() = slot;
  request.set_known_version(known_version_);
  request.set_version(SAB_VERSION);
  manager_->Describe(&request);
  return request;
}

void Synchronizer::StartCall() {
  auto call = std::make_shared<Call>();
  call->request = MakeRequest();
  call->started = clock_->Monotonic();
  call->agents = agents_;
  {
    MutexLock lock(&mutex_);
    const bool known = lease_ > absl::ZeroDuration();
    // A call that shall find out whether the coordinator is back is answered at once.
    const absl::Duration hold = failing_ ? absl::ZeroDuration() : known ? HoldOf(lease_) : kFirstHold;
    absl::Duration slack = known ? std::clamp(lease_ / 5, kLeastSlack, kMostSlack) : kMostSlack;
    if (known && failing_) slack = std::clamp(lease_ / 10, kLeastProbe, kMostProbe);
    *call->request.mutable_max_hold() = ToProto(hold);
    rpc::SetDeadline(call->context, hold + slack);
    call->overdue = call->started + hold + slack + kLate;
    calls_.push_back(call);
  }
  call->agents->async()->Synchronize(
      &call->context, &call->request, &call->response, [this, call](grpc::Status status) {
        MutexLock lock(&mutex_);
        call->status =
            call->given_up && !status.ok() ? absl::DeadlineExceededError("no answer in time") : rpc::FromGrpc(status);
        call->done = true;
        changed_condition_.NotifyAll();
      });
}

bool Synchronizer::MayCallLocked(absl::Duration now) {
  if (calls_.size() >= kMaxCalls) return false;
  if (failing_) return calls_.empty() && now >= next_call_;  // a change does not make the coordinator come back sooner
  return changed_ || (calls_.empty() && now >= next_call_);
}

// Returns the finished calls, oldest first, and whether a new one is due.
std::vector<std::shared_ptr<Synchronizer::Call>> Synchronizer::WaitForWork(bool* call_now) {
  const absl::Duration own_change = clock_->Monotonic() + manager_->TimeToChange();
  std::vector<std::shared_ptr<Call>> finished;
  MutexLock lock(&mutex_);
  while (true) {
    const absl::Duration now = clock_->Monotonic();
    if (now >= own_change) changed_ = true;
    *call_now = !stop_ && MayCallLocked(now);
    absl::Duration overdue = absl::InfiniteDuration();
    for (const auto& call : calls_) {
      if (call->done) {
        finished.push_back(call);
      } else if (now >= call->overdue) {
        if (!std::exchange(call->given_up, true)) call->context.TryCancel();
      } else {
        overdue = std::min(overdue, call->overdue);
      }
    }
    std::erase_if(calls_, [](const auto& call) { return call->done; });
    if (*call_now || !finished.empty() || (stop_ && calls_.empty())) break;
    const absl::Duration due = std::min({own_change, overdue, calls_.empty() ? next_call_ : absl::InfiniteDuration()});
    if (due == absl::InfiniteDuration()) {
      changed_condition_.Wait(&mutex_);
    } else {
      changed_condition_.WaitFor(&mutex_, due - now);
    }
  }
  if (*call_now) changed_ = false;
  return finished;
}

absl::Status Synchronizer::Run() {
  while (true) {
    bool call_now = false;
    for (const auto& call : WaitForWork(&call_now)) {
      metrics_->CountSynchronize(absl::StatusCodeToString(call->status.code()));
      if (absl::IsAborted(call->status)) {
        Stop();
        return call->status;
      }
      if (call->status.ok()) {
        TakeAnswer(*call).IgnoreError();
      } else {
        TakeError(call->status);
      }
    }
    {
      MutexLock lock(&mutex_);
      if (stop_ && calls_.empty()) return absl::OkStatus();
      if (stop_) continue;
    }
    if (call_now) StartCall();
  }
}

absl::Status Synchronizer::TakeAnswer(const Call& call) {
  // Answers may cross on their way. Of two that were given with different versions the one that is to be followed has
  // the higher version, whichever call it answers: versions only grow, over restarts of the coordinator too.
  const bool stale = call.response.desired_version() < known_version_;
  const bool newest = !stale && call.request.sequence() > applied_sequence_;
  const bool news = call.response.desired_version() != known_version_;
  if (newest) {
    applied_sequence_ = call.request.sequence();
    manager_->Apply(call.response, applied_sequence_);
    known_version_ = call.response.desired_version();
  }
  const absl::Duration now = clock_->Monotonic();
  bool recovered = false;
  {
    MutexLock lock(&mutex_);
    recovered = failing_;
    failing_ = false;
    last_answer_ = now;
    lease_ = FromProto(call.response.lease());
    const bool held = now - call.started >= kHeld;
    next_call_ = (newest && news) || held || stale ? now : now + FromProto(call.response.next_call());
  }
  backoff_.Reset();
  if (recovered) log::Info("the coordinator answers again");
  if (!std::exchange(answered_, true)) first_answer_();
  return absl::OkStatus();
}

void Synchronizer::TakeError(const absl::Status& status) {
  // A call that was not answered in time has waited already.
  const absl::Duration wait = absl::IsDeadlineExceeded(status) ? kProbePause : backoff_.Next();
  bool first = false;
  {
    MutexLock lock(&mutex_);
    if (stop_) return;
    first = !failing_;
    failing_ = true;
    next_call_ = clock_->Monotonic() + wait;
    last_error_ = status.ToString();
  }
  if (absl::IsDeadlineExceeded(status)) agents_ = connect_();
  if (first) log::Warning(absl::StrCat("the coordinator does not answer, trainers go on: ", status.ToString()));
}

void Synchronizer::SayGoodbye() {
  v1::SynchronizeRequest request = MakeRequest();
  request.clear_slots();
  grpc::ClientContext context;
  rpc::SetDeadline(context, absl::Seconds(1));
  v1::SynchronizeResponse response;
  (void)agents_->Synchronize(&context, request, &response);
}

}  // namespace sab::agent
