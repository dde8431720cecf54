// sab-trainer: one rank of a job. Started by the worker's agent, which tells it everything else over SAB_AGENT_SOCKET.
#include <c10/util/Flags.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/rpc/trainer_id.h"
#include "model/train/train_loop.h"
#include "worker/trainer/trainer.h"

C10_DECLARE_int(caffe2_log_level);

namespace sab::trainer {
namespace {

constexpr int kFailed = 1, kUsage = 2, kStopped = 143;
constexpr absl::Duration kTimeToLeave = absl::Seconds(3);
// Survivors of a peer's death wait so long to be stopped before they report: the peer's end says more than their own.
constexpr absl::Duration kTimeToBeTold = absl::Seconds(2);

constexpr char kHelp[] =
    "usage: sab-trainer [--help | --version]\n"
    "\n"
    "One rank of a training job. sab-worker starts it with, in the environment,\n"
    "  SAB_AGENT_SOCKET  unix:PATH of the agent's TrainerService\n"
    "  SAB_TRAINER_ID    jobs/JOB/attempts/ATTEMPT/ranks/RANK\n"
    "Exit codes: 0 finished, 1 failed (the agent was told why), 2 usage, 143 stopped by SIGTERM or its agent.\n";

// SIGTERM and SIGINT as a StopRequest. Before other threads start: they inherit the mask.
void WatchSignals(StopRequest& stop) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
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
};

// The one place where exceptions become what a user is told.
template <typename Body>
Failure Catch(Body body, StopRequest& stop) {
  try {
    body();
    return {};
  } catch (const model::CollectiveError& error) {
    stop.Await(kTimeToBeTold);
    return {error.what(), false};
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

int Run(AgentClient& agent, StopRequest& stop) {
  absl::StatusOr<v1::GetAssignmentResponse> assignment = agent.GetAssignment();
  if (!assignment.ok()) {
    log::Error(absl::StrCat("no assignment from the agent: ", std::string(assignment.status().message())));
    return stop.requested() ? kStopped : kFailed;
  }
  const auto send = [&](const v1::ReportProgressRequest& request) {
    const auto response = agent.ReportProgress(request);
    if (response.ok() && response->leave()) stop.RequestLeave();
    return response.status();
  };
  Reporter reporter({.send = send, .on_lost = [&](const std::string& reason) { stop.Request(reason); }});
  std::string stop_reason;
  Failure failure = Catch([&] { stop_reason = RunTrainer(*assignment, agent, reporter, stop); }, stop);
  if (stop.requested()) {
    log::Info(absl::StrCat("stopped: ", stop.reason()));
    return kStopped;
  }
  if (!failure.text.empty()) {
    log::Error(failure.text);
    reporter.Fail(failure.text, failure.permanent);
    return kFailed;
  }
  log::Info(absl::StrCat("finished: ", stop_reason));
  reporter.Succeed(stop_reason);
  return 0;
}

int Main(int argc, char** argv) {
  const std::string option = argc > 1 ? argv[1] : "";
  if (argc == 2 && option == "--version") return std::printf("sab-trainer %s\n", SAB_VERSION) < 0;
  if (argc == 2 && option == "--help") return std::fputs(kHelp, stdout) < 0;
  const char* socket = std::getenv("SAB_AGENT_SOCKET");
  const char* id_text = std::getenv("SAB_TRAINER_ID");
  if (argc > 1 || socket == nullptr || id_text == nullptr) {
    std::fputs(kHelp, stderr);
    return kUsage;
  }
  log::Init("trainer");
  FLAGS_caffe2_log_level = 3;  // c10d logs stack traces of errors that reach the user in words
  const absl::StatusOr<v1::TrainerId> id = rpc::ParseTrainerId(id_text);
  if (!id.ok()) {
    log::Error(absl::StrCat("SAB_TRAINER_ID: ", id.status().message()));
    return kUsage;
  }
  static StopRequest stop;
  WatchSignals(stop);
  static std::thread guard([] {  // what blocks cannot block this: an all-reduce, a disk, a destructor
    while (!stop.Await(absl::Hours(1))) continue;
    absl::SleepFor(kTimeToLeave);
    _exit(kStopped);
  });
  AgentClient agent(socket, *id, [](const std::string& reason) { stop.Request(reason); });
  return Run(agent, stop);
}

}  // namespace
}  // namespace sab::trainer

int main(int argc, char** argv) {
  const int code = sab::trainer::Main(argc, argv);
  std::fflush(nullptr);
  _exit(code);  // LibTorch's and gRPC's static destructors have nothing to do, and take their time
}
