// Kills a coordinator (SIGKILL) at random moments of its work and counts what that cost; see coordinator.sh.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/coordinator/programs.h"
#include "bench/coordinator/stored_jobs.h"
#include "bench/coordinator/users.h"
#include "tests/util/specs.h"
#include "tests/util/temp_dir.h"

namespace sab::bench {
namespace {

constexpr int kUsers = 4;
constexpr int kSlots = 8;     // of pretended trainers
constexpr int kRestarts = 5;  // with stored jobs

struct Options {
  std::string bin_dir, fake_trainer;
  int64_t kills = 200, seed = 1, stored = 10'000;
};

void Sleep(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

void Row(const char* name, std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double q) { return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))]; };
  std::printf("  %-48s %8.3f %8.3f %8.3f\n", name, at(0.5), at(0.99), at(1));
}

JobId SubmitEndless(client::Client& client, int64_t replicas, const char* name) {
  v1::JobSpec spec = testing_util::CopySpec(replicas);
  spec.set_name(name);
  spec.mutable_train()->set_steps(100'000'000);
  spec.mutable_eval()->set_every(0);
  spec.mutable_checkpoint()->set_every(5000);
  (*spec.mutable_labels())["fake.step_ms"] = "2";
  const auto created = client.CreateJob(spec);
  if (!created.ok()) {
    std::fprintf(stderr, "%s\n", created.status().ToString().c_str());
    std::exit(1);
  }
  return *ParseJobName(created->job().name());
}

// Jobs that nobody was told of.
void FindStrangers(client::Client& client, const std::set<std::string>& known, Violations* violations) {
  v1::ListJobsRequest request;
  request.set_page_size(1000);
  do {
    const auto page = client.ListJobs(request);
    if (!page.ok()) return violations->Add(absl::StrCat("list: ", page.status().ToString()));
    for (const v1::Job& job : page->jobs()) {
      if (!known.contains(job.name())) violations->Add(absl::StrCat(job.name(), " was created twice"));
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
}

int64_t KillUnderLoad(const Options& options) {
  testing_util::TempDir folder;
  Programs programs(options.bin_dir, folder.path());
  programs.StartCoordinator();
  programs.AwaitAddress();
  client::Client client({.address = programs.address(), .connect_timeout = absl::Minutes(1)});
  Violations violations;

  // Two ranks that compute, one that pretends to: they hold their slots from first to last. Then the users' slots.
  std::vector<std::unique_ptr<Follower>> followers;
  std::set<std::string> known;
  for (const int64_t replicas : {2, 1}) {
    programs.StartWorker(static_cast<int>(replicas), replicas == 2 ? "" : options.fake_trainer);
    const JobId job = SubmitEndless(client, replicas, replicas == 2 ? "trained" : "pretended");
    followers.push_back(std::make_unique<Follower>(programs.address(), job, &violations));
    followers.back()->AwaitRunning();
    known.insert(job.name());
  }
  programs.StartWorker(kSlots, options.fake_trainer);
  std::vector<std::unique_ptr<User>> users;
  for (int i = 0; i < kUsers; ++i)
    users.push_back(
        std::make_unique<User>(programs.address(), static_cast<uint32_t>(options.seed * 100 + i), &violations));

  std::mt19937 random(static_cast<uint32_t>(options.seed));
  const auto draw = [&](double from, double to) { return std::uniform_real_distribution<double>(from, to)(random); };
  std::vector<double> down, serving;
  int64_t steps_while_down = 0, stood_still = 0;
  for (int64_t kill = 0; kill < options.kills; ++kill) {
    Sleep(draw(0, 1.2));
    const auto begin = std::chrono::steady_clock::now();
    programs.KillCoordinator();
    const int64_t before[] = {programs.StepsSeenByAgent(0), programs.StepsSeenByAgent(1)};
    Sleep(draw(0.05, 0.5));
    for (size_t worker : {0, 1}) {
      const int64_t made = programs.StepsSeenByAgent(worker) - before[worker];
      steps_while_down += made;
      stood_still += made <= 0;
    }
    programs.StartCoordinator();
    serving.push_back(AwaitAnswer(programs.address()));
    down.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  int64_t calls = 0, jobs = 0;
  for (const auto& user : users) user->Stop();
  for (const auto& user : users) {
    user->Check();
    user->AddJobs(&known);
    calls += user->calls();
    jobs += user->jobs();
  }
  for (const auto& follower : followers) follower->Finish();
  FindStrangers(client, known, &violations);

  std::printf(
      "%ld kills of the coordinator, seed %ld: %ld calls of %d users, %ld jobs of theirs, 2 that trained throughout\n",
      options.kills, options.seed, calls, kUsers, jobs);
  std::printf("  %-48s %8s %8s %8s\n", "seconds", "median", "p99", "most");
  Row("from the kill to the first answer", down);
  Row("from the start of the next to the first answer", serving);
  std::printf("  steps that those two made while it was down: %ld; times that one made none: %ld of %zu\n",
              steps_while_down, stood_still, 2 * down.size());
  const std::vector<std::string> wrong = violations.Take();
  std::printf("  violations: %zu\n", wrong.size());
  for (const std::string& text : wrong) std::printf("WRONG: %s\n", text.c_str());
  if (!wrong.empty()) std::fprintf(stderr, "%s\n", programs.Logs().c_str());
  return static_cast<int64_t>(wrong.size());
}

void RestartOnStoredJobs(const Options& options) {
  testing_util::TempDir folder;
  Programs programs(options.bin_dir, folder.path());
  StoreJobs(folder.path() + "/coordinator", options.stored);
  programs.StartCoordinator();
  programs.AwaitAddress();
  std::vector<double> serving, processor, submit;
  for (int i = 0; i < kRestarts; ++i) {
    programs.KillCoordinator();
    programs.StartCoordinator();
    serving.push_back(AwaitAnswer(programs.address()));
    processor.push_back(programs.CoordinatorProcessorSeconds());
    submit.push_back(TimeSubmit(programs.address()));
  }
  std::printf("\n%ld jobs stored, the coordinator killed and started again %d times\n", options.stored, kRestarts);
  std::printf("  %-48s %8s %8s %8s\n", "seconds", "median", "p99", "most");
  Row("from the start to the first answer", serving);
  Row("its processor time until then", processor);
  Row("the first submit after it", submit);
}

constexpr char kUsage[] = R"(usage: ./dev bench coordinator [--kills N] [--seed N] [--stored N]

  --kills N    kills under load (default 200; 0: none)
  --seed N     of the moments and of what the users do (default 1)
  --stored N   jobs in the store of the restarts that are measured after that (default 10000; 0: none)

Examples:
  ./dev bench coordinator --kills 8 --stored 0     # short
  ./dev bench coordinator --kills 0                # only the restarts with 10,000 jobs
)";

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--bin-dir") {
      options.bin_dir = value;
    } else if (name == "--fake-trainer") {
      options.fake_trainer = value;
    } else if (name == "--kills" && absl::SimpleAtoi(value, &options.kills)) {
    } else if (name == "--seed" && absl::SimpleAtoi(value, &options.seed)) {
    } else if (name == "--stored" && absl::SimpleAtoi(value, &options.stored)) {
    } else {
      std::fputs(kUsage, name == "--help" ? stdout : stderr);
      return name == "--help" ? 0 : 2;
    }
  }
  int64_t wrong = 0;
  if (options.kills > 0) wrong += KillUnderLoad(options);
  if (options.stored > 0) RestartOnStoredJobs(options);
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace sab::bench

int main(int argc, char** argv) {
  return sab::bench::Main(argc, argv);
}
