// Load on a running coordinator: `bench_load --address A --pid P [--agents N] [--watchers N] [--jobs N] [--seconds N]`.
// So many agents, each on a connection of its own, synchronise and train pretended jobs; watchers follow jobs; probes
// measure the calls of users meanwhile. Prints latencies, and processor time and memory of process P.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sab/v1/agent_service.grpc.pb.h"
#include "sab/v1/job_service.grpc.pb.h"
#include "tests/util/fake_agent.h"
#include "tests/util/specs.h"

namespace sab {
namespace {

constexpr int64_t kSteps = 1000;       // of a job
constexpr int64_t kStepsPerCall = 50;  // so a job takes about 20 calls of its agent

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Each channel has its own connection, as programs on other machines have.
std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// Seconds of calls that went well; thread-safe.
class Latencies {
 public:
  void Add(double seconds) {
    const std::lock_guard<std::mutex> lock(mutex_);
    seconds_.push_back(seconds);
  }
  void Fail() { ++failures_; }
  void Clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    seconds_.clear();
  }
  void Print(const char* name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::sort(seconds_.begin(), seconds_.end());
    const auto at = [&](double q) {
      return seconds_.empty() ? 0 : 1000 * seconds_[static_cast<size_t>(q * static_cast<double>(seconds_.size() - 1))];
    };
    std::printf("  %-22s %8zu calls   p50 %8.2f ms   p99 %8.2f ms   max %8.2f ms   %d failed\n", name, seconds_.size(),
                at(0.5), at(0.99), at(1), failures_.load());
  }

 private:
  std::mutex mutex_;
  std::vector<double> seconds_;
  std::atomic<int> failures_ = 0;
};

// One worker's agent: calls again as soon as it is answered, as the real one does.
class LoadAgent {
 public:
  LoadAgent(const std::string& address, int number, Latencies* latencies)
      : agent_(absl::StrCat("workers/load-", number), 1),
        stub_(v1::AgentService::NewStub(Connect(address))),
        latencies_(latencies) {}

  void Call() {
    context_ = std::make_unique<grpc::ClientContext>();
    request_ = agent_.Request();
    request_.mutable_max_hold()->set_seconds(1);
    started_ = Now();
    running_ = true;
    stub_->async()->Synchronize(context_.get(), &request_, &response_,
                                [this](const grpc::Status& status) { OnAnswer(status); });
  }
  void Stop() { stopping_ = true; }
  bool running() const { return running_; }
  int64_t calls() const { return calls_; }

 private:
  void OnAnswer(const grpc::Status& status) {
    ++calls_;
    if (status.ok()) {
      // Longer than the hold: what a late answer costs.
      latencies_->Add(std::max(0.0, Now() - started_ - 1));
      agent_.Apply(response_);
      agent_.Train(kStepsPerCall, kSteps);
    } else {
      latencies_->Fail();
    }
    if (stopping_) {
      running_ = false;
    } else {
      Call();
    }
  }

  testing_util::FakeAgent agent_;
  const std::unique_ptr<v1::AgentService::Stub> stub_;
  Latencies* const latencies_;
  std::unique_ptr<grpc::ClientContext> context_;
  v1::SynchronizeRequest request_;
  v1::SynchronizeResponse response_;
  double started_ = 0;
  std::atomic<int64_t> calls_ = 0;
  std::atomic<bool> stopping_ = false, running_ = false;
};

struct Options {
  std::string address;
  int pid = 0;
  int agents = 1000, watchers = 200, jobs = 2000, seconds = 20;
};

class Load {
 public:
  explicit Load(Options options) : options_(std::move(options)) {}

  int Run() {
    const double memory_before = Memory(), cpu_before = Cpu();
    StartAgents();
    SubmitJobs();
    std::vector<std::thread> threads = StartWatchers();
    sync_.Clear();  // it held what the agents' connections cost
    const double begin = Now();
    for (auto probe : {&Load::ProbeCreate, &Load::ProbeGet, &Load::ProbeList, &Load::ProbeExplain, &Load::ProbeSync}) {
      threads.emplace_back([this, probe, begin] {
        while (Now() - begin < options_.seconds) {
          (this->*probe)();
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
      });
    }
    for (size_t i = options_.watchers; i < threads.size(); ++i) threads[i].join();
    const double seconds = Now() - begin, cpu = Cpu() - cpu_before;
    int64_t calls = 0;
    for (const auto& agent : agents_) calls += agent->calls();
    for (const auto& context : watches_) context->TryCancel();
    for (int i = 0; i < options_.watchers; ++i) threads[i].join();
    StopAgents();
    Print(seconds, static_cast<double>(calls), cpu, memory_before);
    return 0;
  }

 private:
  // In MiB.
  double Memory() const {
    std::ifstream file(absl::StrCat("/proc/", options_.pid, "/statm"));
    double total = 0, resident = 0;
    file >> total >> resident;
    return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1 << 20);
  }
  double Cpu() const {
    std::ifstream file(absl::StrCat("/proc/", options_.pid, "/stat"));
    std::string word;
    double ticks = 0, sum = 0;
    for (int i = 1; i <= 13; ++i) file >> word;
    for (int i = 0; i < 2 && file >> ticks; ++i) sum += ticks;
    return sum / static_cast<double>(sysconf(_SC_CLK_TCK));
  }

  void StartAgents() {
    for (int i = 0; i < options_.agents; ++i) {
      agents_.push_back(std::make_unique<LoadAgent>(options_.address, i, &sync_));
      agents_.back()->Call();
    }
  }
  void StopAgents() {
    for (const auto& agent : agents_) agent->Stop();
    for (const auto& agent : agents_) {
      while (agent->running()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

  std::string Submit(Latencies* latencies) {
    v1::CreateJobRequest request;
    *request.mutable_spec() = testing_util::CopySpec();
    request.mutable_spec()->mutable_train()->set_steps(kSteps);
    v1::CreateJobResponse response;
    return Timed(latencies, [&](auto* context) { return user_->CreateJob(context, request, &response); })
               ? response.job().name()
               : "";
  }
  void SubmitJobs() {
    const double begin = Now();
    for (int i = 0; i < options_.jobs; ++i) jobs_.push_back(Submit(&submit_));
    std::printf("submitted %d jobs in %.2f s\n", options_.jobs, Now() - begin);
  }

  std::vector<std::thread> StartWatchers() {
    std::vector<std::thread> threads;
    for (int i = 0; i < options_.watchers; ++i) {
      watches_.push_back(std::make_unique<grpc::ClientContext>());
      threads.emplace_back([this, i] {
        const auto stub = v1::JobService::NewStub(Connect(options_.address));
        v1::WatchJobRequest request;
        request.set_name(jobs_[jobs_.size() - 1 - i % jobs_.size()]);
        const auto reader = stub->WatchJob(watches_[i].get(), request);
        v1::WatchJobResponse response;
        while (reader->Read(&response)) ++events_;
      });
    }
    return threads;
  }

  template <typename Call>
  bool Timed(Latencies* latencies, Call call) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    const double begin = Now();
    const bool ok = call(&context).ok();
    ok ? latencies->Add(Now() - begin) : latencies->Fail();
    return ok;
  }
  void ProbeCreate() { Submit(&create_); }
  void ProbeGet() {
    v1::GetJobRequest request;
    request.set_name(jobs_.back());
    v1::GetJobResponse response;
    Timed(&get_, [&](auto* context) { return user_->GetJob(context, request, &response); });
  }
  void ProbeList() {
    v1::ListJobsResponse response;
    Timed(&list_, [&](auto* context) { return user_->ListJobs(context, v1::ListJobsRequest(), &response); });
  }
  void ProbeExplain() {
    v1::ExplainJobRequest request;
    request.set_name(jobs_.back());
    v1::ExplainJobResponse response;
    Timed(&explain_, [&](auto* context) { return user_->ExplainJob(context, request, &response); });
  }
  // A call that has nothing to wait for: what the others' calls cost without their hold.
  void ProbeSync() {
    const v1::SynchronizeRequest request = probe_.Request();
    v1::SynchronizeResponse response;
    if (Timed(&prompt_, [&](auto* context) { return agent_->Synchronize(context, request, &response); })) {
      probe_.Apply(response);
    }
  }

  void Print(double seconds, double calls, double cpu, double memory_before) {
    std::printf("%d agents, %d watchers, %.0f s: %.0f synchronisations and %.0f watch events a second\n",
                options_.agents, options_.watchers, seconds, calls / seconds,
                static_cast<double>(events_.load()) / seconds);
    std::printf("coordinator: %.1f MiB before, %.1f MiB after; %.2f cores of processor time\n", memory_before, Memory(),
                cpu / seconds);
    sync_.Print("Synchronize, past hold");
    prompt_.Print("Synchronize, no hold");
    submit_.Print("CreateJob, burst");
    create_.Print("CreateJob");
    get_.Print("GetJob");
    list_.Print("ListJobs (100)");
    explain_.Print("ExplainJob");
  }

  const Options options_;
  const std::unique_ptr<v1::JobService::Stub> user_ = v1::JobService::NewStub(Connect(options_.address));
  const std::unique_ptr<v1::AgentService::Stub> agent_ = v1::AgentService::NewStub(Connect(options_.address));
  testing_util::FakeAgent probe_{"workers/probe", 0};
  std::vector<std::unique_ptr<LoadAgent>> agents_;
  std::vector<std::string> jobs_;
  std::vector<std::unique_ptr<grpc::ClientContext>> watches_;
  std::atomic<int64_t> events_ = 0;
  Latencies sync_, prompt_, submit_, create_, get_, list_, explain_;
};

}  // namespace
}  // namespace sab

int main(int argc, char** argv) {
  sab::Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--address") options.address = argv[i + 1];
    if (name == "--pid") options.pid = std::atoi(argv[i + 1]);
    if (name == "--agents") options.agents = std::atoi(argv[i + 1]);
    if (name == "--watchers") options.watchers = std::atoi(argv[i + 1]);
    if (name == "--jobs") options.jobs = std::max(1, std::atoi(argv[i + 1]));
    if (name == "--seconds") options.seconds = std::atoi(argv[i + 1]);
  }
  return sab::Load(options).Run();
}
