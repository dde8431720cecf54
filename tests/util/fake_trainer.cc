// A trainer without a model: speaks TrainerService as sab-trainer does, advances one step every few milliseconds and
// writes small valid checkpoints. Agent, coordinator and CLI are tested with it: sab-worker --trainer PATH.
//
// A setting NAME is the job's label "fake.NAME", else the environment's FAKE_TRAINER_NAME in capitals:
//   step_ms          time of a step (default 1)
//   fail_at_step     fails at this step, by `fail_how`, in attempts up to fail_attempts (default 1), on rank fail_rank
//   (default: every rank) fail_how         exit (code `exit_code`, default 3), abort, kill, report, permanent, nothing
//   (exit 0 without a word) hang_at_step     stops answering at this step, in the same attempts and on the same rank
//   ignore_sigterm   1: only SIGKILL ends it
//   checkpoint_bytes size of the parameters (default 64)
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/rpc/trainer_id.h"
#include "common/spec/validate.h"
#include "sab/v1/trainer_service.grpc.pb.h"

namespace sab {
namespace {

std::atomic<bool> asked_to_leave = false;

class FakeTrainer {
 public:
  FakeTrainer(const std::string& socket, v1::TrainerId id)
      : stub_(v1::TrainerService::NewStub(rpc::MakeChannel(socket))), id_(std::move(id)) {}

  // The process's exit code. ABORTED of any call ends it quietly.
  int Run() {
    const absl::Status status = Train();
    if (status.ok() || absl::IsAborted(status)) return 0;
    std::fprintf(stderr, "fake trainer: %s\n", status.ToString().c_str());
    return 1;
  }

 private:
  std::string Setting(const std::string& name) const {
    const auto label = spec().labels().find("fake." + name);
    if (label != spec().labels().end()) return label->second;
    const char* value = std::getenv(absl::StrCat("FAKE_TRAINER_", absl::AsciiStrToUpper(name)).c_str());
    return value == nullptr ? "" : value;
  }
  int64_t Number(const std::string& name, int64_t absent) const {
    int64_t number = 0;
    return absl::SimpleAtoi(Setting(name), &number) ? number : absent;
  }
  const v1::JobSpec& spec() const { return reply_.assignment().spec(); }

  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (v1::TrainerService::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    Request request, Response* response, absl::Duration timeout = absl::Seconds(20)) {
    *request.mutable_id() = id_;
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    rpc::SetDeadline(context, timeout);
    return rpc::FromGrpc((stub_.get()->*method)(&context, request, response));
  }

  absl::Status Report(v1::TrainerPhase phase, std::vector<v1::MetricPoint> points = {},
                      const std::string& stop_reason = "", const std::string& failure = "", bool permanent = false) {
    v1::ReportProgressRequest request;
    request.set_phase(phase);
    request.set_step(step_);
    for (auto& point : points) *request.add_points() = std::move(point);
    request.set_stop_reason(stop_reason);
    request.set_failure(failure);
    request.set_permanent(permanent);
    v1::ReportProgressResponse response;
    const absl::Status status = Call(&v1::TrainerService::Stub::ReportProgress, std::move(request), &response);
    leave_ = leave_ || response.leave();
    return status;
  }

  absl::Status Meet() {
    if (id_.rank() == 0) {
      v1::PublishRendezvousRequest request;
      request.set_rendezvous(absl::StrCat(reply_.host(), ":1"));
      v1::PublishRendezvousResponse response;
      return Call(&v1::TrainerService::Stub::PublishRendezvous, std::move(request), &response);
    }
    v1::AwaitRendezvousResponse response;
    SAB_RETURN_IF_ERROR(Call(&v1::TrainerService::Stub::AwaitRendezvous, v1::AwaitRendezvousRequest(), &response));
    return response.rendezvous().empty() ? absl::InternalError("the rendezvous is empty") : absl::OkStatus();
  }

  absl::Status Prepare() {
    SAB_RETURN_IF_ERROR(Call(&v1::TrainerService::Stub::GetAssignment, v1::GetAssignmentRequest(), &reply_));
    if (Number("ignore_sigterm", 0) != 0) signal(SIGTERM, SIG_IGN);
    SAB_RETURN_IF_ERROR(Report(v1::TRAINER_PHASE_PREPARING));
    if (!reply_.resume_dir().empty()) {
      SAB_ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint, VerifyCheckpoint(reply_.resume_dir()));
      step_ = checkpoint.step();
      std::printf("resumed at step %ld\n", static_cast<long>(step_));
    }
    return Meet();
  }

  absl::Status Train() {
    SAB_RETURN_IF_ERROR(Prepare());
    const int64_t steps = spec().train().steps();
    std::printf("rank %d of %d trains to step %ld\n", id_.rank(), reply_.assignment().world_size(),
                static_cast<long>(steps));
    std::fflush(stdout);
    if (spec().checkpoint().initial() && step_ == 0) SAB_RETURN_IF_ERROR(Checkpoint());
    std::string stop_reason = "steps";
    while (step_ < steps) {
      std::this_thread::sleep_for(std::chrono::milliseconds(Number("step_ms", 1)));
      if (asked_to_leave) return absl::OkStatus();
      ++step_;
      SAB_RETURN_IF_ERROR(Misbehave());
      SAB_ASSIGN_OR_RETURN(const bool stop, AfterStep(&stop_reason));
      if (leave_) stop_reason = "leave";
      if (stop || leave_) break;
    }
    SAB_RETURN_IF_ERROR(Checkpoint());
    return Report(v1::TRAINER_PHASE_SUCCEEDED, {}, stop_reason);
  }

  // Figures, evaluation and checkpoint where they are due. True: stop_when holds.
  absl::StatusOr<bool> AfterStep(std::string* stop_reason) {
    std::vector<v1::MetricPoint> points;
    const double done = static_cast<double>(step_) / static_cast<double>(spec().train().steps());
    if (id_.rank() == 0) points.push_back(Point("train", "loss", 0, 2 * std::exp(-3 * done)));
    const bool evaluate = Due(spec().eval().every());
    for (int64_t length : spec().eval().lengths()) {
      if (!evaluate || id_.rank() != 0) break;
      points.push_back(Point("eval", "loss", length, 2 * std::exp(-3 * done)));
      points.push_back(Point("eval", "accuracy", length, done));
    }
    if (step_ % 10 == 1 || evaluate) SAB_RETURN_IF_ERROR(Report(v1::TRAINER_PHASE_TRAINING, points));
    if (Due(spec().checkpoint().every())) SAB_RETURN_IF_ERROR(Checkpoint());
    if (!evaluate || spec().eval().stop_when().empty()) return false;
    SAB_ASSIGN_OR_RETURN(const spec::Condition condition, spec::ParseCondition(spec().eval().stop_when()));
    *stop_reason = absl::StrCat("stop_when: ", spec().eval().stop_when(), " at step ", step_);
    const bool holds = condition.metric == "accuracy" && condition.Holds(done);
    if (!holds) *stop_reason = "steps";
    return holds;
  }

  bool Due(int64_t every) const { return every > 0 && step_ % every == 0; }

  v1::MetricPoint Point(const char* split, const char* name, int64_t length, double value) const {
    v1::MetricPoint point;
    point.set_step(step_);
    point.set_split(split);
    point.set_name(name);
    point.set_length(length);
    point.set_value(value);
    return point;
  }

  // Its content depends on the step alone, so that a resumed run ends with the same bytes.
  absl::Status Checkpoint() {
    if (id_.rank() != 0 || step_ == last_checkpoint_) return absl::OkStatus();
    last_checkpoint_ = step_;
    v1::Checkpoint header;
    header.set_name(absl::StrCat(id_.job(), "/checkpoints/", MakeCheckpointId(step_, id_.attempt())));
    header.set_step(step_);
    header.set_attempt(id_.attempt());
    header.set_eval_loss(1.0 / static_cast<double>(step_ + 1));
    SAB_ASSIGN_OR_RETURN(CheckpointWriter writer, CheckpointWriter::Create(reply_.checkpoint_dir(), header));
    const std::vector<float> values(static_cast<size_t>(std::max<int64_t>(4, Number("checkpoint_bytes", 64)) / 4),
                                    static_cast<float>(step_));
    const TensorView tensor{"w",
                            "F32",
                            {static_cast<int64_t>(values.size())},
                            {reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(float)}};
    SAB_RETURN_IF_ERROR(writer.AddSafetensors(kModelFile, {tensor}));
    SAB_RETURN_IF_ERROR(writer.AddFile(kStateFile, absl::StrCat("{\"step\": ", step_, "}\n")));
    v1::PublishCheckpointRequest request;
    SAB_ASSIGN_OR_RETURN(*request.mutable_checkpoint(), writer.Commit());
    v1::PublishCheckpointResponse response;
    return Call(&v1::TrainerService::Stub::PublishCheckpoint, std::move(request), &response);
  }

  absl::Status Misbehave() {
    const int64_t rank = Number("fail_rank", -1);
    if (id_.attempt() > Number("fail_attempts", 1) || (rank >= 0 && rank != id_.rank())) return absl::OkStatus();
    if (step_ == Number("hang_at_step", -1)) {
      while (!asked_to_leave) pause();
      _exit(0);
    }
    if (step_ != Number("fail_at_step", -1)) return absl::OkStatus();
    const std::string how = Setting("fail_how");
    std::fprintf(stderr, "fake trainer fails at step %ld\n", static_cast<long>(step_));
    if (how == "abort") std::abort();
    if (how == "kill") kill(getpid(), SIGKILL);
    if (how == "nothing") _exit(0);
    if (how == "report" || how == "permanent") {
      SAB_RETURN_IF_ERROR(Report(v1::TRAINER_PHASE_FAILED, {}, "", "told to fail", how == "permanent"));
      _exit(1);
    }
    _exit(static_cast<int>(Number("exit_code", 3)));
  }

  const std::unique_ptr<v1::TrainerService::Stub> stub_;
  const v1::TrainerId id_;
  v1::GetAssignmentResponse reply_;
  int64_t step_ = 0;
  int64_t last_checkpoint_ = -1;
  bool leave_ = false;
};

// A standby waits to be told which trainer it is.
absl::StatusOr<v1::TrainerId> AwaitAssignment(const std::string& socket, const char* standby) {
  const auto stub = v1::TrainerService::NewStub(rpc::MakeChannel(socket));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  rpc::SetDeadline(context, absl::Hours(1));
  v1::AwaitAssignmentRequest request;
  request.set_standby(std::atoll(standby));
  v1::AwaitAssignmentResponse response;
  SAB_RETURN_IF_ERROR(rpc::FromGrpc(stub->AwaitAssignment(&context, request, &response)));
  return response.id();
}

}  // namespace
}  // namespace sab

int main() {
  const char* socket = std::getenv("SAB_AGENT_SOCKET");
  const char* id_text = std::getenv("SAB_TRAINER_ID");
  const char* standby = std::getenv("SAB_TRAINER_STANDBY");
  if (socket == nullptr || (id_text == nullptr && standby == nullptr)) {
    std::fprintf(stderr, "fake trainer: SAB_AGENT_SOCKET and SAB_TRAINER_ID must be set; sab-worker sets them\n");
    return 2;
  }
  const auto id = id_text != nullptr ? sab::rpc::ParseTrainerId(id_text) : sab::AwaitAssignment(socket, standby);
  signal(SIGTERM, [](int) { sab::asked_to_leave = true; });
  if (!id.ok()) {
    std::fprintf(stderr, "fake trainer: %s\n", id.status().ToString().c_str());
    return 2;
  }
  return sab::FakeTrainer(socket, *id).Run();
}
