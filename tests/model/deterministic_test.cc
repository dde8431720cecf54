// TrainConfig::shards: the same bits, whatever number of ranks and threads computes them and however they meet.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <optional>
#include <thread>

#include "model/train/train_loop.h"

namespace sab::model {
namespace {

// As Collective asks of its process.
const auto kPipesIgnored = std::signal(SIGPIPE, SIG_IGN);

// All that a run leaves, and all that it says.
struct Outcome {
  at::Tensor values;
  std::vector<at::Tensor> optimizer;
  std::vector<double> figures;  // of steps and evaluations, in order, norms included
  TrainState state;

  bool operator==(const Outcome& other) const {
    return at::equal(values, other.values) && figures == other.figures &&
           std::equal(optimizer.begin(), optimizer.end(), other.optimizer.begin(), other.optimizer.end(), at::equal) &&
           state.eval_loss == other.state.eval_loss;
  }
};

class Recorder : public TrainObserver {
 public:
  explicit Recorder(int64_t leave_after) : leave_after_(leave_after) {}
  void OnStep(const StepReport& report) override {
    for (const Figure& figure : report.figures) figures.push_back(figure.value);
    figures.insert(figures.end(), {report.gradient_norm, report.max_hidden_norm, report.guarded_fraction});
    if (report.step == leave_after_) loop->RequestLeave();
  }
  void OnEval(const EvalReport& report) override {
    for (const Figure& figure : report.figures) figures.push_back(figure.value);
    figures.push_back(report.max_hidden_norm);
  }
  void OnCheckpoint(const TrainState&) override {}

  TrainLoop* loop = nullptr;
  std::vector<double> figures;

 private:
  const int64_t leave_after_;
};

struct Case {
  ModelConfig model;
  TrainConfig train;
  int ranks = 1;
  int threads = 1;
  bool shared_memory = true;
  int64_t leave_after = 0;           // ends with that step or the next; 0: at the end
  const Outcome* goes_on = nullptr;  // from here
};

TaskConfig Task(const TrainConfig& train) {
  return {.kind = TaskKind::kCopy, .batch_size = train.batch_size, .length = 7, .one_hot = true};
}

Outcome RunRank(const Case& run, Collective& group) {
  at::set_num_threads(run.threads);  // of this thread
  const auto task = MakeTask(Task(run.train));
  ParameterSet parameters(run.model, task->shape(), at::kCPU);
  const auto engine = MakeEngine(run.model, task->shape(), parameters);
  Recorder recorder(run.leave_after);
  TrainLoop loop(run.train, {*task, *engine, parameters, group, recorder});
  recorder.loop = &loop;
  if (run.goes_on != nullptr) {
    parameters.values().copy_(run.goes_on->values);
    loop.Restore(run.goes_on->state,
                 {{"adam.exp_avg", run.goes_on->optimizer[0]}, {"adam.exp_avg_sq", run.goes_on->optimizer[1]}});
    recorder.figures = run.goes_on->figures;
  }
  EXPECT_EQ(loop.Run(), run.leave_after > 0 ? "leave" : "steps");
  Outcome outcome = {parameters.values().clone(), {}, recorder.figures, loop.state()};
  for (const NamedTensor& named : loop.optimizer().State()) outcome.optimizer.push_back(named.tensor.clone());
  return outcome;
}

// What rank 0 has in the end; the others have the same.
Outcome Train(const Case& run) {
  auto store = Rendezvous::Open("127.0.0.1");
  std::vector<Outcome> outcomes(static_cast<size_t>(run.ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < run.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      auto mine = rank == 0 ? store : Rendezvous::Connect(store->address(), std::chrono::seconds(60));
      const auto group =
          run.ranks == 1
              ? MakeSingleProcessCollective()
              : MakeCollective(mine, {.rank = rank, .world_size = run.ranks, .shared_memory = run.shared_memory});
      outcomes[static_cast<size_t>(rank)] = RunRank(run, *group);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Outcome& outcome : outcomes) EXPECT_TRUE(outcome == outcomes[0]);
  return outcomes[0];
}

Case Small(Kind kind, EngineKind engine = EngineKind::kFast) {
  Case run;
  run.model = {.kind = kind, .hidden_size = 13, .engine = engine};
  if (kind == Kind::kLstm) run.model.k_trunc = 0;
  run.train = {.batch_size = 24,
               .steps = 9,
               .learning_rate = 1e-2,
               .clip_norm = 0.1,
               .shards = 4,
               .eval_every = 3,
               .eval_sequences = 19};
  return run;
}

class DeterministicTest : public ::testing::TestWithParam<std::pair<Kind, EngineKind>> {
 protected:
  Case run_ = Small(GetParam().first, GetParam().second);
};
INSTANTIATE_TEST_SUITE_P(Systems, DeterministicTest,
                         ::testing::Values(std::pair(Kind::kSab, EngineKind::kFast),
                                           std::pair(Kind::kLstm, EngineKind::kFast),
                                           std::pair(Kind::kAttention, EngineKind::kFast),
                                           std::pair(Kind::kSab, EngineKind::kReference),
                                           std::pair(Kind::kLstm, EngineKind::kReference)));

TEST_P(DeterministicTest, OneTwoAndFourRanksGiveTheSameBitsOverEveryTransport) {
  const Outcome one = Train(run_);
  ASSERT_GT(one.figures.size(), 9u);
  for (const int ranks : {2, 4}) {
    for (const bool shared_memory : {true, false}) {
      run_.ranks = ranks;
      run_.shared_memory = shared_memory;
      EXPECT_TRUE(Train(run_) == one) << ranks << (shared_memory ? " ranks in shared memory" : " ranks over Gloo");
    }
  }
}

TEST_P(DeterministicTest, ARunThatGoesOnWithOtherRanksGivesTheSameBits) {
  const Outcome undisturbed = Train(run_);
  std::optional<Outcome> so_far;
  for (const auto& [ranks, leave_after] : {std::pair(4, 2), std::pair(1, 4), std::pair(2, 0)}) {
    run_.ranks = ranks;
    run_.leave_after = leave_after;
    run_.goes_on = so_far ? &*so_far : nullptr;
    so_far = Train(run_);
  }
  EXPECT_TRUE(*so_far == undisturbed);
}

TEST(DeterministicRunTest, TheNumberOfThreadsDoesNotMatter) {
  for (const Kind kind : {Kind::kSab, Kind::kLstm}) {
    Case run = Small(kind);
    const Outcome one = Train(run);
    run.threads = 3;
    run.ranks = 2;
    EXPECT_TRUE(Train(run) == one);
  }
}

TEST(DeterministicRunTest, FiguresAreThoseOfAnyOtherRunUpToRounding) {
  Case run = Small(Kind::kSab);
  run.train.steps = 2;
  const Outcome with = Train(run);
  run.train.shards = 0;
  const Outcome without = Train(run);
  ASSERT_EQ(with.figures.size(), without.figures.size());
  for (size_t i = 0; i < with.figures.size(); ++i) EXPECT_NEAR(with.figures[i], without.figures[i], 1e-4);
}

TEST(DeterministicRunTest, ShardsThatDoNotFitAreRefused) {
  for (const int64_t shards : {3, 16}) {
    Case run = Small(Kind::kLstm);
    run.train.shards = shards;
    const auto alone = MakeSingleProcessCollective();
    EXPECT_THROW(RunRank(run, *alone), std::invalid_argument) << shards;
  }
}

}  // namespace
}  // namespace sab::model
