// sab-trainer: one rank of a job. Started by the worker's agent, which tells it everything else over SAB_AGENT_SOCKET.
#include <c10/util/Flags.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/rpc/channel.h"
#include "common/rpc/trainer_id.h"
#include "model/train/train_loop.h"
#include "worker/trainer/release.h"
#include "worker/trainer/trainer.h"

C10_DECLARE_int(caffe2_log_level);

namespace sab::trainer {
namespace {

constexpr int kFailed = 1, kUsage = 2, kStopped = 143;
constexpr absl::Duration kTimeToLeave = absl::Seconds(3);
// Survivors of a peer's death wait so long to be stopped before they report, when their agent cannot give them another
// trainer to be: the peer's end says more than their own.
constexpr absl::Duration kTimeToBeTold = absl::Seconds(2);
constexpr absl::Duration kLeastPatience = absl::Seconds(10);

constexpr char kHelp[] =
    "usage: sab-trainer [--help | --version]\n"
    "\n"
    "One rank of a training job. sab-worker starts it with, in the environment,\n"
    "  SAB_AGENT_SOCKET  unix:PATH of the agent's TrainerService\n"
    "  SAB_TRAINER_ID    jobs/JOB/attempts/ATTEMPT/ranks/RANK, or, for a warm standby that is told later,\n"
    "  SAB_TRAINER_STANDBY  its number\n"
    "Exit codes: 0 finished, 1 failed (the agent was told why), 2 usage, 143 stopped by SIGTERM or its agent.\n";

// SIGTERM and SIGINT as a StopRequest. Before other threads start: they inherit the mask.
void WatchSignals(StopRequest& stop) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of its write
  // Ends with the process, by _exit: nothing wakes sigwait but a signal.
  static std::thread waiter([signals, &stop] {
    int number = 0;
    sigwait(&signals, &number);
    stop.Request(number == SIGTERM ? "SIGTERM" : "SIGINT");
  });
}

struct Failure {
  std::string text;
  bool permanent = false;
  bool peer_lost = false;  // it is a peer that failed
};

// The one place where exceptions become what a user is told.
template <typename Body>
Failure Catch(Body body) {
  try {
    body();
    return {};
  } catch (const model::CollectiveError& error) {
    return {error.what(), false, true};
  } catch (const model::PermanentError& error) {
    return {error.what(), true};
  } catch (const std::invalid_argument& error) {
    return {error.what(), true};
  } catch (const std::bad_alloc&) {
    return {"out of memory: try a smaller train.batch_size, or model.recompute: on", false};
  } catch (const c10::OutOfMemoryError& error) {
    return {absl::StrCat("out of memory on the device: try a smaller train.batch_size, or model.recompute: on (",
                         error.what_without_backtrace(), ")"),
            false};
  } catch (const c10::Error& error) {
    return {error.what_without_backtrace(), false};
  } catch (const std::exception& error) {
    return {error.what(), false};
  }
}

// The trainers that this process is, one after the other: the same rank's, or another's, in one attempt after the
// other.
class Process {
 public:
  Process(std::shared_ptr<v1::TrainerService::Stub> stub, StopRequest& stop) : stub_(std::move(stub)), stop_(stop) {}

  // The exit code.
  int Run(v1::TrainerId id) {
    while (true) {
      const Turn turn = BeTrainer(id);
      if (!turn.next.has_value()) return turn.exit_code;
      log::Info(absl::StrCat("goes on as ", rpc::FormatTrainerId(*turn.next)));
      id = *turn.next;
    }
  }

 private:
  struct Turn {
    int exit_code = 0;
    std::optional<v1::TrainerId> next;
  };

  Turn BeTrainer(const v1::TrainerId& id) {
    StopRequest interruption;  // of this turn; an end of the process is one too
    stop_.SetAction([&] { interruption.Request("the process ends"); });
    const Turn turn = BeTrainer(id, interruption);
    stop_.SetAction(nullptr);
    return turn;
  }

  Turn BeTrainer(const v1::TrainerId& id, StopRequest& interruption) {
    AgentClient agent(stub_, id, [&](const std::string& reason) { interruption.Request(reason); });
    Release release(stub_, id, [&] { interruption.Request("its attempt has ended"); });
    const absl::StatusOr<v1::GetAssignmentResponse> assignment = agent.GetAssignment();
    if (!assignment.ok()) {
      if (interruption.requested()) return AfterInterruption(release, kLeastPatience);
      log::Error(absl::StrCat("no assignment from the agent: ", std::string(assignment.status().message())));
      return {kFailed, std::nullopt};
    }
    // Before the first report: one that still said how the turn before ended would be held against this one.
    pulse_.Enter(v1::TRAINER_ACTIVITY_PREPARE);
    const auto send = [&](const v1::ReportProgressRequest& request) {
      const auto response = agent.ReportProgress(request);
      if (response.ok() && response->leave()) interruption.RequestLeave();
      return response.status();
    };
    Reporter reporter({.send = send,
                       .on_lost = [&](const std::string& reason,
                                      bool unwanted) { (unwanted ? interruption : stop_).Request(reason); },
                       .pulse = [&] { return pulse_.Read(); }});
    for (v1::MetricPoint& point : std::exchange(left_over_, {})) reporter.Add(std::move(point));
    std::string stop_reason;
    Failure failure = Catch([&] { stop_reason = replica_.Run(*assignment, {agent, stub_, reporter, interruption}); });
    if (failure.peer_lost && !interruption.requested()) AwaitWord(*assignment, release, reporter, interruption);
    if (interruption.requested()) {
      left_over_ = reporter.Abandon();
      return AfterInterruption(release, kLeastPatience);
    }
    if (!failure.text.empty()) {
      log::Error(failure.text);
      reporter.Fail(failure.text, failure.permanent);
      return {kFailed, std::nullopt};
    }
    log::Info(absl::StrCat("finished: ", stop_reason));
    reporter.Succeed(stop_reason);
    return {0, std::nullopt};
  }

  // A peer is gone. The coordinator hears of it by other ways and decides; until then this process lives on and says
  // so.
  void AwaitWord(const v1::GetAssignmentResponse& assignment, Release& release, Reporter& reporter,
                 StopRequest& interruption) {
    pulse_.Enter(v1::TRAINER_ACTIVITY_INTERRUPTED);
    reporter.Flush();
    const absl::Duration told = absl::Seconds(assignment.peer_patience().seconds());
    interruption.Await(release.refused() ? kTimeToBeTold : std::max(told, kLeastPatience));
  }

  Turn AfterInterruption(Release& release, absl::Duration patience) {
    if (stop_.requested()) {
      log::Info(absl::StrCat("stopped: ", stop_.reason()));
      return {kStopped, std::nullopt};
    }
    std::optional<v1::TrainerId> next = release.Await(patience);
    if (!next.has_value()) log::Info("stopped: not wanted any more");
    return {kStopped, std::move(next)};
  }

  const std::shared_ptr<v1::TrainerService::Stub> stub_;
  StopRequest& stop_;
  PulseMeter pulse_;
  Replica replica_{pulse_};
  std::deque<v1::MetricPoint> left_over_;
};

// The trainer that this process is to be first: what its environment says, or, for a standby, what the agent will say.
absl::StatusOr<v1::TrainerId> FirstTrainer(v1::TrainerService::Stub& stub, const char* id, const char* standby) {
  if (id != nullptr) return rpc::ParseTrainerId(id);
  int64_t number = 0;
  if (!absl::SimpleAtoi(standby, &number)) return absl::InvalidArgumentError("SAB_TRAINER_STANDBY is not a number");
  Replica::WarmUp();
  return AgentClient::AwaitAssignment(stub, number);
}

int Main(int argc, char** argv) {
  const std::string option = argc > 1 ? argv[1] : "";
  if (argc == 2 && option == "--version") return std::printf("sab-trainer %s\n", SAB_VERSION) < 0;
  if (argc == 2 && option == "--help") return std::fputs(kHelp, stdout) < 0;
  const char* socket = std::getenv("SAB_AGENT_SOCKET");
  const char* id_text = std::getenv("SAB_TRAINER_ID");
  const char* standby = std::getenv("SAB_TRAINER_STANDBY");
  if (argc > 1 || socket == nullptr || (id_text == nullptr && standby == nullptr)) {
    std::fputs(kHelp, stderr);
    return kUsage;
  }
  log::Init("trainer");
  FLAGS_caffe2_log_level = 3;  // c10d logs stack traces of errors that reach the user in words
  static StopRequest stop;
  WatchSignals(stop);
  static std::thread guard([] {  // what blocks cannot block this: an all-reduce, a disk, a destructor
    while (!stop.Await(absl::Hours(1))) continue;
    absl::SleepFor(kTimeToLeave);
    _exit(kStopped);
  });
  const std::shared_ptr<v1::TrainerService::Stub> stub = v1::TrainerService::NewStub(rpc::MakeChannel(socket));
  stop.SetAction([] { _exit(kStopped); });  // nothing has begun yet
  const absl::StatusOr<v1::TrainerId> id = FirstTrainer(*stub, id_text, standby);
  stop.SetAction(nullptr);
  if (!id.ok()) {
    log::Error(std::string(id.status().message()));
    return absl::IsInvalidArgument(id.status()) ? kUsage : kStopped;
  }
  Process process(stub, stop);
  const int code = process.Run(*id);
  std::fflush(nullptr);
  _exit(code);  // not by way of the destructors: a checkpoint that nobody waits for may still be being written
}

}  // namespace
}  // namespace sab::trainer

int main(int argc, char** argv) {
  const int code = sab::trainer::Main(argc, argv);
  std::fflush(nullptr);
  _exit(code);  // LibTorch's and gRPC's static destructors have nothing to do, and take their time
}
