#include "bench/coordinator/programs.h"

#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "sab/v1/job_service.grpc.pb.h"
#include "tests/util/http_get.h"

namespace sab::bench {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(1);
}

std::string Content(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

Programs::Programs(std::string bin_dir, std::string folder) : bin_dir_(std::move(bin_dir)), folder_(std::move(folder)) {
  for (const char* name : {"logs", "checkpoints", "coordinator"}) fs::create_directories(fs::path(folder_) / name);
}

Programs::~Programs() {
  for (ChildProcess& worker : workers_) worker.Signal(SIGTERM);
  for (ChildProcess& worker : workers_) worker.Wait();
  if (coordinator_.has_value()) KillCoordinator();
}

ChildProcess Programs::Start(const std::string& program, const std::string& log,
                             std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), bin_dir_ + "/" + program);
  auto process = ChildProcess::Start({.command = arguments, .output = absl::StrCat(folder_, "/logs/", log, ".log")});
  if (!process.ok()) Die(process.status().ToString());
  return *std::move(process);
}

std::string Programs::AwaitFile(const std::string& path) const {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (std::chrono::steady_clock::now() < deadline) {
    if (const std::string text = Content(path); !text.empty()) return std::string(absl::StripAsciiWhitespace(text));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  Die(absl::StrCat(path, " was not written within a minute\n", Logs()));
}

void Programs::StartCoordinator() {
  coordinator_.emplace(Start(
      "sab-coordinator", "coordinator",
      {"--state-dir", folder_ + "/coordinator", "--checkpoint-dir", folder_ + "/checkpoints", "--listen",
       address_.empty() ? "127.0.0.1:0" : address_, "--metrics-listen", "", "--address-file", folder_ + "/address"}));
}

void Programs::AwaitAddress() {
  address_ = AwaitFile(folder_ + "/address");
}

void Programs::KillCoordinator() {
  coordinator_->Signal(SIGKILL);
  coordinator_->Wait();
}

void Programs::StartWorker(int slots, const std::string& trainer) {
  const std::string title = absl::StrCat("worker-", workers_.size());
  const std::string state = folder_ + "/" + title;
  fs::create_directories(state);
  std::vector<std::string> arguments = {"--coordinator",
                                        address_,
                                        "--state-dir",
                                        state,
                                        "--slots",
                                        absl::StrCat(slots),
                                        "--device",
                                        "cpu",
                                        "--advertise",
                                        "127.0.0.1",
                                        "--metrics-listen",
                                        "127.0.0.1:0",
                                        "--ready-file",
                                        state + "/ready",
                                        "--metrics-address-file",
                                        state + "/metrics-address",
                                        "--threads-per-slot",
                                        "1"};
  if (!trainer.empty()) arguments.insert(arguments.end(), {"--trainer", trainer, "--standby", "0"});
  workers_.push_back(Start("sab-worker", title, arguments));
  AwaitFile(state + "/ready");
  worker_metrics_.push_back(AwaitFile(state + "/metrics-address"));
}

int64_t Programs::StepsSeenByAgent(size_t index) const {
  double steps = 0;
  const std::string answer = testing_util::HttpGet(worker_metrics_[index], "/metrics");
  for (const absl::string_view line : absl::StrSplit(answer, '\n')) {
    if (absl::StartsWith(line, "sab_worker_slot_step{"))
      steps += std::atof(std::string(line.substr(line.rfind(' '))).c_str());
  }
  return static_cast<int64_t>(steps);
}

double Programs::CoordinatorProcessorSeconds() const {
  std::istringstream stat(Content(absl::StrCat("/proc/", coordinator_->pid(), "/stat")));
  std::string word;
  double user = 0, system = 0;
  for (int i = 0; i < 13; ++i) stat >> word;
  stat >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::string Programs::Logs() const {
  std::string text;
  for (const auto& entry : fs::directory_iterator(folder_ + "/logs")) {
    const std::string content = Content(entry.path());
    absl::StrAppend(&text, "--- ", entry.path().filename().string(), "\n",
                    content.substr(content.size() > 4000 ? content.size() - 4000 : 0));
  }
  return text;
}

double AwaitAnswer(const std::string& address) {
  const auto begin = std::chrono::steady_clock::now();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 5);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 10);
  const auto stub =
      v1::JobService::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  v1::ListJobsRequest request;
  request.set_page_size(1);
  v1::ListJobsResponse response;
  for (;;) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    const grpc::Status status = stub->ListJobs(&context, request, &response);
    if (status.ok()) return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) Die("no answer of " + address + " for a minute");
  }
}

}  // namespace sab::bench
