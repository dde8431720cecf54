// The all-reduce of CPU ranks on this machine, over shared memory and over Gloo, in turns.
//
//   bench_allreduce [--busy N] [--turns N] [--only calls|steps]
//     --busy N   beside N processes that compute all the time
//     --turns N  turns of each training configuration (21)
//
// Two tables: a call by size and number of ranks; and a training step of `sab` (copy at T=100, H=128, B=64) in one
// process with two threads beside two ranks with one thread each, each also with train.deterministic. Every rank is a
// process of its own; rank 0's clock counts. The program starts itself for them:
//   bench_allreduce calls RANK WORLD_SIZE SHARED_ADDRESS GLOO_ADDRESS
//   bench_allreduce steps RANK WORLD_SIZE ADDRESS shared|gloo|alone THREADS SHARDS
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/engine.h"
#include "model/train/train_loop.h"

namespace sab::model {
namespace {

using Clock = std::chrono::steady_clock;
using Words = std::vector<std::string>;

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// Processor time of all threads of this process.
double ProcessorMicroseconds() {
  timespec spent{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
  return static_cast<double>(spent.tv_sec) * 1e6 + static_cast<double>(spent.tv_nsec) / 1e3;
}

double Quantile(std::vector<double> values, double share) {
  const auto place = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + place, values.end());
  return values[static_cast<size_t>(place)];
}

// ---- Processes ----

// Another process of this program, spoken to in lines; it ends with its owner.
class Child {
 public:
  explicit Child(const Words& words) {
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    pid_ = fork();
    if (pid_ == 0) Become(words, to[0], from[1]);
    close(to[0]);
    close(from[1]);
    input_ = fdopen(to[1], "w");
    output_ = fdopen(from[0], "r");
  }
  ~Child() {
    std::fclose(input_);
    std::fclose(output_);
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;

  void Write(const std::string& line) {
    std::fprintf(input_, "%s\n", line.c_str());
    std::fflush(input_);
  }
  // False at the end of its output.
  bool Read(std::string* line) {
    char buffer[512];
    if (std::fgets(buffer, sizeof(buffer), output_) == nullptr) return false;
    *line = buffer;
    line->resize(line->find('\n'));
    return true;
  }

 private:
  [[noreturn]] static void Become(const Words& words, int input, int output) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    std::string program = "bench_allreduce";
    std::vector<char*> arguments = {program.data()};
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    execv("/proc/self/exe", arguments.data());
    _exit(127);
  }

  pid_t pid_ = -1;
  FILE* input_ = nullptr;
  FILE* output_ = nullptr;
};

using Ranks = std::vector<std::unique_ptr<Child>>;

std::unique_ptr<Collective> Meet(const std::string& address, int rank, int world_size, bool shared) {
  auto store = Rendezvous::Connect(address, std::chrono::seconds(60));
  auto group = MakeCollective(store, {.rank = rank, .world_size = world_size, .shared_memory = shared});
  if ((group->transport() == "shared memory") != shared) throw std::runtime_error("met over " + group->transport());
  return group;
}

// ---- Calls ----

std::vector<double> TimeCalls(Collective& group, at::Tensor& numbers, int calls) {
  std::vector<double> times;
  for (int call = 0; call < calls; ++call) {
    const auto start = Clock::now();
    group.AllReduceSum(numbers);
    times.push_back(MicrosecondsSince(start));
  }
  return times;
}

// One rank: every size, the transports in turns.
int RunCalls(const Words& words) {
  const int rank = std::stoi(words.at(1)), world_size = std::stoi(words.at(2));
  constexpr int kTurns = 20;
  const auto ours = Meet(words.at(3), rank, world_size, true);
  const auto gloo = Meet(words.at(4), rank, world_size, false);
  for (int64_t bytes = 1024; bytes <= 16 << 20; bytes *= 4) {
    at::Tensor numbers = at::zeros({bytes / 4});
    const int calls = bytes <= 1 << 20 ? 25 : 5;
    std::vector<double> times[2];
    for (int turn = -1; turn < kTurns; ++turn) {  // turn -1 warms up
      for (const bool shared : {true, false}) {
        const std::vector<double> spent = TimeCalls(shared ? *ours : *gloo, numbers, calls);
        if (turn >= 0) times[shared].insert(times[shared].end(), spent.begin(), spent.end());
      }
    }
    if (rank > 0) continue;
    const double median[2] = {Quantile(times[0], 0.5), Quantile(times[1], 0.5)};
    std::printf("| %d | %ld | %.0f | %.0f | %.0f | %.0f | %.1fx |\n", world_size, static_cast<long>(bytes / 1024),
                median[1], Quantile(times[1], 0.99), median[0], Quantile(times[0], 0.99), median[0] / median[1]);
    std::fflush(stdout);
  }
  return 0;
}

void PrintCalls() {
  std::printf("| ranks | KiB | shared memory, us | 99 %% | Gloo, us | 99 %% | ratio |\n");
  std::printf("| --: | --: | --: | --: | --: | --: | --: |\n");
  for (const int world_size : {2, 4}) {
    const auto shared = Rendezvous::Open("127.0.0.1"), gloo = Rendezvous::Open("127.0.0.1");
    Ranks ranks;
    for (int rank = 0; rank < world_size; ++rank) {
      ranks.push_back(std::make_unique<Child>(
          Words{"calls", std::to_string(rank), std::to_string(world_size), shared->address(), gloo->address()}));
    }
    for (std::string line; ranks[0]->Read(&line);) std::printf("%s\n", line.c_str());
    for (size_t rank = 1; rank < ranks.size(); ++rank) {
      for (std::string line; ranks[rank]->Read(&line);) {
      }
    }
  }
}

// ---- Training steps ----

// Lets the training go on for as many steps as a line of the input says, and answers with the milliseconds of one, by
// the clock and of the processor.
class Metronome : public TrainObserver {
 public:
  void Attach(TrainLoop& loop) { loop_ = &loop; }
  // False at the end of the input.
  bool Await() {
    if (!(std::cin >> wanted_)) return false;
    done_ = 0;
    start_ = Clock::now();
    processor_start_ = ProcessorMicroseconds();
    return true;
  }
  void OnStep(const StepReport&) override {
    if (++done_ < wanted_) return;
    std::printf("%f %f\n", MicrosecondsSince(start_) / 1e3 / done_,
                (ProcessorMicroseconds() - processor_start_) / 1e3 / done_);
    std::fflush(stdout);
    if (!Await()) loop_->RequestStop();
  }
  void OnEval(const EvalReport&) override {}
  void OnCheckpoint(const TrainState&) override {}

 private:
  TrainLoop* loop_ = nullptr;
  int wanted_ = 0;
  int done_ = 0;
  Clock::time_point start_;
  double processor_start_ = 0;
};

// One rank of a training.
int RunSteps(const Words& words) {
  const int rank = std::stoi(words.at(1)), world_size = std::stoi(words.at(2));
  at::globalContext().setFlushDenormal(true);  // as a trainer
  at::set_num_threads(std::stoi(words.at(5)));
  const auto group = words.at(4) == "alone" ? MakeSingleProcessCollective()
                                            : Meet(words.at(3), rank, world_size, words.at(4) == "shared");
  const auto task = MakeTask({.kind = TaskKind::kCopy, .length = 100});
  const ModelConfig config;
  ParameterSet parameters(config, task->shape(), at::kCPU);
  const auto engine = MakeEngine(config, task->shape(), parameters);
  Metronome metronome;
  TrainLoop loop({.steps = 1'000'000'000,
                  .clip_norm = 1,
                  .shards = std::stoi(words.at(6)),
                  .eval_every = 0,
                  .checkpoint_every = 0},
                 {*task, *engine, parameters, *group, metronome});
  metronome.Attach(loop);
  if (metronome.Await()) loop.Run();
  return 0;
}

struct Training {
  std::string name;
  std::shared_ptr<Rendezvous> store;
  Ranks ranks;
  std::vector<double> milliseconds = {};  // a step, by turn
  std::vector<double> processor = {};     // the same of all ranks' processor time
};

// `shards`: 0, or those of train.deterministic.
Training StartTraining(const std::string& name, const std::string& transport, int world_size, int shards) {
  Training training = {name + (shards > 0 ? ", deterministic" : ""), Rendezvous::Open("127.0.0.1"), {}};
  for (int rank = 0; rank < world_size; ++rank) {
    training.ranks.push_back(std::make_unique<Child>(Words{"steps", std::to_string(rank), std::to_string(world_size),
                                                           training.store->address(), transport,
                                                           std::to_string(2 / world_size), std::to_string(shards)}));
  }
  return training;
}

void TimeSteps(Training& training, int steps, bool counts) {
  for (const auto& rank : training.ranks) rank->Write(std::to_string(steps));
  double milliseconds = 0, processor = 0;
  for (size_t rank = training.ranks.size(); rank-- > 0;) {
    std::string line;
    if (!training.ranks[rank]->Read(&line)) throw std::runtime_error("a rank of '" + training.name + "' ended");
    size_t rest = 0;
    milliseconds = std::stod(line, &rest);  // at last, rank 0's
    processor += std::stod(line.substr(rest));
  }
  if (!counts) return;
  training.milliseconds.push_back(milliseconds);
  training.processor.push_back(processor);
}

void PrintSteps(int turns) {
  constexpr int kSteps = 20;
  std::vector<Training> trainings;
  for (const int shards : {0, 4}) {
    trainings.push_back(StartTraining("one process, two threads", "alone", 1, shards));
    trainings.push_back(StartTraining("two ranks, shared memory", "shared", 2, shards));
    trainings.push_back(StartTraining("two ranks, Gloo", "gloo", 2, shards));
  }
  for (int turn = -1; turn < turns; ++turn) {  // turn -1 warms up
    for (Training& training : trainings) TimeSteps(training, kSteps, turn >= 0);
  }
  const auto ratio = [](const std::vector<double>& values, const std::vector<double>& others) {
    std::vector<double> ratios;
    for (size_t turn = 0; turn < values.size(); ++turn) ratios.push_back(values[turn] / others[turn]);
    return Quantile(ratios, 0.5);
  };
  std::printf("| training step | ms, median | of one process | of the same, not deterministic | in processor time |\n");
  std::printf("| --- | --: | --: | --: | --: |\n");
  for (size_t i = 0; i < trainings.size(); ++i) {
    const Training &training = trainings[i], &plain = trainings[i % 3];
    std::printf("| %s | %.2f | %.2f | %.2f | %.2f |\n", training.name.c_str(), Quantile(training.milliseconds, 0.5),
                ratio(training.milliseconds, trainings[0].milliseconds),
                ratio(training.milliseconds, plain.milliseconds), ratio(training.processor, plain.processor));
  }
}

[[noreturn]] void StayBusy() {
  volatile uint64_t work = 0;
  while (true) work = work + 1;
}

int Main(const Words& words) {
  if (!words.empty() && words[0] == "calls") return RunCalls(words);
  if (!words.empty() && words[0] == "steps") return RunSteps(words);
  if (!words.empty() && words[0] == "busy") StayBusy();
  int busy = 0, turns = 21;
  std::string only;
  for (size_t i = 0; i < words.size(); i += 2) {
    if (i + 1 == words.size()) throw std::invalid_argument("usage: see the head of bench/allreduce_bench.cc");
    if (words[i] == "--busy") {
      busy = std::stoi(words[i + 1]);
    } else if (words[i] == "--turns") {
      turns = std::stoi(words[i + 1]);
    } else if (words[i] == "--only") {
      only = words[i + 1];
    } else {
      throw std::invalid_argument("unknown option " + words[i] + ": see the head of bench/allreduce_bench.cc");
    }
  }
  Ranks others;
  for (int i = 0; i < busy; ++i) others.push_back(std::make_unique<Child>(Words{"busy"}));
  if (only != "steps") PrintCalls();
  if (only.empty()) std::printf("\n");
  if (only != "calls") PrintSteps(turns);
  return 0;
}

}  // namespace
}  // namespace sab::model

int main(int argc, char** argv) {
  try {
    return sab::model::Main(sab::model::Words(argv + 1, argv + argc));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_allreduce: %s\n", e.what());
    return 2;
  }
}
