#include "model/train/train_loop.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <future>
#include <limits>
#include <mutex>
#include <set>
#include <thread>

namespace sab::model {
namespace {

// As Collective asks of its process.
const auto kPipesIgnored = std::signal(SIGPIPE, SIG_IGN);

using ::testing::HasSubstr;

// The real engine, with gradients spoilt in the calls that a test names.
class SpoilingEngine : public Engine {
 public:
  SpoilingEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters)
      : parameters_(parameters), engine_(MakeEngine(config, shape, parameters)) {}

  PassSums ForwardBackward(const Batch& batch, double loss_scale) override {
    const PassSums sums = engine_->ForwardBackward(batch, loss_scale);
    if (spoil(++calls)) parameters_.gradients()[0] = std::numeric_limits<float>::quiet_NaN();
    return sums;
  }
  PassSums Evaluate(const Batch& batch) override { return engine_->Evaluate(batch); }
  at::Tensor Outputs(const Batch& batch) override { return engine_->Outputs(batch); }

  int calls = 0;
  std::function<bool(int)> spoil = [](int) { return false; };

 private:
  ParameterSet& parameters_;
  std::unique_ptr<Engine> engine_;
};

// Remembers all it is told, and the state at each checkpoint.
class Recorder : public TrainObserver {
 public:
  struct Saved {
    TrainState state;
    at::Tensor values;
    std::vector<NamedTensor> optimizer;
  };

  void OnStep(const StepReport& report) override {
    steps.push_back(report);
    if (on_step) on_step(report);
  }
  void OnEval(const EvalReport& report) override { evals.push_back(report); }
  void OnCheckpoint(const TrainState& state) override {
    Saved saved = {state, parameters->values().clone(), {}};
    for (const NamedTensor& tensor : loop->optimizer().State())
      saved.optimizer.push_back({tensor.name, tensor.tensor.clone()});
    checkpoints.push_back(std::move(saved));
  }

  ParameterSet* parameters = nullptr;
  TrainLoop* loop = nullptr;
  std::vector<StepReport> steps;
  std::vector<EvalReport> evals;
  std::vector<Saved> checkpoints;
  std::function<void(const StepReport&)> on_step;
};

struct Settings {
  TaskConfig task = {.kind = TaskKind::kCopy, .batch_size = 6, .length = 3, .one_hot = true};
  ModelConfig model = {.kind = Kind::kLstm, .hidden_size = 8, .k_trunc = 0};
  TrainConfig train = {.batch_size = 6,
                       .steps = 10,
                       .learning_rate = 1e-2,
                       .clip_norm = 1,
                       .eval_every = 0,
                       .eval_sequences = 16,
                       .checkpoint_every = 4};
};

// One rank, ready to run.
class Trainer {
 public:
  Trainer(const Settings& settings, Collective& collective)
      : task(MakeTask(settings.task)),
        parameters(settings.model, task->shape(), at::kCPU),
        engine(settings.model, task->shape(), parameters),
        loop(settings.train, {*task, engine, parameters, collective, recorder}) {
    at::set_num_threads(1);  // of this thread: the ranks share the machine
    recorder.parameters = &parameters;
    recorder.loop = &loop;
  }

  std::unique_ptr<Task> task;
  ParameterSet parameters;
  SpoilingEngine engine;
  Recorder recorder;
  TrainLoop loop;
};

// Runs `world_size` ranks of the same job; `look` sees each rank's trainer afterwards.
void RunRanks(int world_size, const Settings& settings, const std::function<void(int, Trainer&)>& look,
              const std::function<void(int, Trainer&)>& prepare = nullptr) {
  auto store = Rendezvous::Open("127.0.0.1");
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      auto mine = rank == 0 ? store : Rendezvous::Connect(store->address(), std::chrono::seconds(20));
      auto group = MakeCollective(mine, {.rank = rank, .world_size = world_size, .timeout = std::chrono::seconds(20)});
      Trainer trainer(settings, *group);
      if (prepare) prepare(rank, trainer);
      trainer.loop.Run();
      const std::lock_guard<std::mutex> lock(mutex);
      look(rank, trainer);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TrainLoopTest, TrainsEvaluatesAndSavesAtTheStepsAskedFor) {
  Settings settings;
  settings.train.eval_every = 5;
  settings.train.eval_lengths = {3, 6};
  settings.train.checkpoint_initial = true;
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  EXPECT_EQ(trainer.loop.Run(), "steps");
  ASSERT_EQ(trainer.recorder.steps.size(), 10u);
  EXPECT_EQ(trainer.recorder.steps.back().step, 10);
  std::vector<std::pair<int64_t, int64_t>> evals;
  for (const EvalReport& eval : trainer.recorder.evals) evals.emplace_back(eval.step, eval.length);
  EXPECT_EQ(evals, (std::vector<std::pair<int64_t, int64_t>>{{5, 3}, {5, 6}, {10, 3}, {10, 6}}));
  std::vector<int64_t> saved;
  for (const auto& checkpoint : trainer.recorder.checkpoints) saved.push_back(checkpoint.state.step);
  EXPECT_EQ(saved, (std::vector<int64_t>{0, 4, 8, 10}));
  EXPECT_EQ(trainer.recorder.checkpoints.back().state.stop_reason, "steps");
  EXPECT_EQ(trainer.recorder.checkpoints.back().state.eval_loss, trainer.recorder.evals[2].figures[0].value);
}

TEST(TrainLoopTest, LossFallsWhenItTrains) {
  Settings settings;
  settings.train.steps = 150;
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  trainer.loop.Run();
  EXPECT_LT(trainer.recorder.steps.back().figures[0].value, 0.8 * trainer.recorder.steps.front().figures[0].value);
}

// Every kind of loss, rows that do not divide evenly.
class RanksTest : public ::testing::TestWithParam<TaskKind> {};

TEST_P(RanksTest, TheAveragedGradientIsThatOfOneProcessOnTheGlobalBatch) {
  Settings settings;
  settings.task.kind = GetParam();
  settings.task.batch_size = settings.train.batch_size = 7;
  settings.train.steps = 1;
  settings.train.clip_norm = 0;
  auto alone = MakeSingleProcessCollective();
  Trainer single(settings, *alone);
  single.loop.Run();
  for (const int world_size : {2, 3}) {
    RunRanks(world_size, settings, [&](int, Trainer& trainer) {
      for (const Parameter& expected : single.parameters.all()) {
        const at::Tensor got = trainer.parameters.Get(expected.name).gradient;
        const double largest = expected.gradient.abs().max().item<double>();
        EXPECT_LE((got - expected.gradient).abs().max().item<double>(), 1e-4 * largest) << expected.name;
      }
      const StepReport& mine = trainer.recorder.steps[0];
      const StepReport& other = single.recorder.steps[0];
      for (size_t i = 0; i < mine.figures.size(); ++i) EXPECT_NEAR(mine.figures[i].value, other.figures[i].value, 1e-5);
      EXPECT_NEAR(mine.max_hidden_norm, other.max_hidden_norm, 1e-5);
      EXPECT_NEAR(mine.gradient_norm, other.gradient_norm, 1e-4 * other.gradient_norm);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Tasks, RanksTest, ::testing::Values(TaskKind::kCopy, TaskKind::kAdding, TaskKind::kRecall));

TEST(TrainLoopTest, AllRanksEndWithTheSameBitsAndFigures) {
  Settings settings;
  settings.train.eval_every = 5;
  std::vector<at::Tensor> values(2);
  std::vector<double> losses(2);
  RunRanks(2, settings, [&](int rank, Trainer& trainer) {
    values[static_cast<size_t>(rank)] = trainer.parameters.values().clone();
    losses[static_cast<size_t>(rank)] = trainer.recorder.evals.back().figures[0].value;
  });
  EXPECT_TRUE(at::equal(values[0], values[1]));
  EXPECT_EQ(losses[0], losses[1]);
}

// Trains on from what was saved.
template <class Check>
void GoOnFrom(const Recorder::Saved& saved, int world_size, const Settings& settings, const Check& check) {
  RunRanks(world_size, settings, check, [&](int, Trainer& trainer) {
    trainer.parameters.values().copy_(saved.values);
    trainer.loop.Restore(saved.state, saved.optimizer);
  });
}

void ExpectResumedRunsGiveTheSameBits(int world_size) {
  Settings settings;
  std::vector<at::Tensor> uninterrupted(static_cast<size_t>(world_size));
  Recorder::Saved at_step_4;
  RunRanks(world_size, settings, [&](int rank, Trainer& trainer) {
    uninterrupted[static_cast<size_t>(rank)] = trainer.parameters.values().clone();
    at_step_4 = trainer.recorder.checkpoints.at(0);
  });
  ASSERT_EQ(at_step_4.state.step, 4);
  GoOnFrom(at_step_4, world_size, settings, [&](int rank, Trainer& trainer) {
    EXPECT_EQ(trainer.recorder.steps.front().step, 5);
    EXPECT_TRUE(at::equal(trainer.parameters.values(), uninterrupted[static_cast<size_t>(rank)]));
  });
}

TEST(TrainLoopTest, AResumedRunGivesTheSameBitsAsAnUninterruptedOne) {
  ExpectResumedRunsGiveTheSameBits(1);
}
TEST(TrainLoopTest, AResumedRunOfTwoRanksGivesTheSameBitsAsAnUninterruptedOne) {
  ExpectResumedRunsGiveTheSameBits(2);
}

// The rung's evaluation is an extra one: the curriculum must not go on in it.
void ExpectARungChangesNoBit(int world_size) {
  Settings settings;
  settings.train.eval_every = 4;
  settings.train.eval_lengths = {3, 6};
  settings.train.curriculum = {{3, 4, 5, 6}, {"loss", Condition::Op::kBelow, 100}, /*vary=*/false};
  settings.train.checkpoint_every = 0;
  at::Tensor undisturbed;
  RunRanks(world_size, settings, [&](int rank, Trainer& trainer) {
    if (rank == 0) undisturbed = trainer.parameters.values().clone();
  });
  settings.train.ranked_by = "accuracy";
  Settings first = settings;
  first.train.rung = 6;
  Recorder::Saved saved;
  RunRanks(world_size, first, [&](int rank, Trainer& trainer) {
    EXPECT_EQ(trainer.recorder.steps.back().step, 6);
    ASSERT_EQ(trainer.recorder.checkpoints.size(), 1u);
    ASSERT_EQ(trainer.recorder.evals.size(), 4u);
    EXPECT_EQ(trainer.recorder.evals[2].step, 6);
    EXPECT_EQ(trainer.recorder.evals[2].length, 3);
    EXPECT_EQ(trainer.recorder.checkpoints[0].state.figure, trainer.recorder.evals[2].figures[1].value);
    EXPECT_EQ(trainer.recorder.evals[2].figures[1].name, "accuracy");
    if (rank == 0) saved = trainer.recorder.checkpoints[0];
  });
  GoOnFrom(saved, world_size, settings, [&](int, Trainer& trainer) {
    EXPECT_EQ(trainer.recorder.steps.front().step, 7);
    EXPECT_TRUE(at::equal(trainer.parameters.values(), undisturbed));
    EXPECT_TRUE(trainer.loop.state().figure.has_value()) << "evaluated at the end";
  });
}

TEST(TrainLoopTest, ARunThatLeavesAtARungAndGoesOnGivesTheSameBitsAsOneWithout) {
  ExpectARungChangesNoBit(1);
}
TEST(TrainLoopTest, ARunOfTwoRanksThatLeavesAtARungAndGoesOnGivesTheSameBitsAsOneWithout) {
  ExpectARungChangesNoBit(2);
}

TEST(TrainLoopTest, AtARungItSaysSoUnlessItEndsThere) {
  Settings settings;
  settings.train.rung = 6;
  settings.train.ranked_by = "loss";
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  EXPECT_EQ(trainer.loop.Run(), "rung");
  // The condition is not looked at in an evaluation that is the rung's alone, and is in one that is due.
  settings.train.stop_when = Condition{"loss", Condition::Op::kBelow, 100};
  Trainer extra(settings, *alone);
  EXPECT_EQ(extra.loop.Run(), "rung");
  settings.train.eval_every = 6;
  Trainer due(settings, *alone);
  EXPECT_EQ(due.loop.Run(), "stop_when: loss < 100 at step 6");
  EXPECT_EQ(due.recorder.evals.size(), 1u);
}

TEST(TrainLoopTest, ARungRestoredWithoutItsFigureIsEvaluatedAndSavedAgain) {
  Settings settings;
  settings.train.rung = 8;
  settings.train.ranked_by = "loss";
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  trainer.loop.Run();
  Recorder::Saved saved = trainer.recorder.checkpoints.back();
  ASSERT_TRUE(saved.state.figure.has_value());
  const double figure = *saved.state.figure;
  saved.state.figure.reset();
  Trainer again(settings, *alone);
  again.parameters.values().copy_(saved.values);
  again.loop.Restore(saved.state, saved.optimizer);
  EXPECT_EQ(again.loop.Run(), "rung");
  EXPECT_TRUE(again.recorder.steps.empty());
  ASSERT_EQ(again.recorder.checkpoints.size(), 1u);
  EXPECT_EQ(again.recorder.checkpoints[0].state.figure, figure);
}

TEST(TrainLoopTest, AFigureToRankByThatTheTaskDoesNotHaveIsRefused) {
  Settings settings;
  settings.train.ranked_by = "bits";
  auto alone = MakeSingleProcessCollective();
  EXPECT_THROW(Trainer(settings, *alone), std::invalid_argument);
}

// One rank is torn out of a step, or of an evaluation; the other goes on from what it holds with a newcomer, and the
// end is the same bits.
void ExpectANewcomerGetsTheStateOfTheSurvivor(int survivor, int64_t eval_every,
                                              const std::function<void(int, Trainer&)>& tear) {
  Settings settings;
  settings.train.eval_every = eval_every;
  settings.train.curriculum = {{3, 4, 5, 6}, {"loss", Condition::Op::kBelow, 100}, /*vary=*/true};
  at::Tensor uninterrupted;
  RunRanks(2, settings, [&](int rank, Trainer& trainer) {
    if (rank == 0) uninterrupted = trainer.parameters.values().clone();
  });
  std::promise<std::string> second_address;
  auto second = second_address.get_future().share();
  const auto meet = [](const std::shared_ptr<Rendezvous>& store, int rank) {
    return MakeCollective(store, {.rank = rank, .world_size = 2, .timeout = std::chrono::seconds(60)});
  };
  auto store = Rendezvous::Open("127.0.0.1");
  const auto finish = [&](int rank, Trainer& trainer, Recorder& recorder, bool newcomer) {
    auto again = rank == 0 ? Rendezvous::Open("127.0.0.1") : nullptr;
    if (rank == 0) second_address.set_value(again->address());
    if (rank != 0) again = Rendezvous::Connect(second.get(), std::chrono::seconds(60));
    const auto group = meet(again, rank);
    recorder.parameters = &trainer.parameters;
    recorder.loop = &trainer.loop;
    trainer.loop.Rejoin(*group, recorder);
    if (newcomer) trainer.loop.TakeStateFromPeers();
    EXPECT_EQ(trainer.loop.Run(), "steps");
    EXPECT_TRUE(at::equal(trainer.parameters.values(), uninterrupted)) << rank;
    for (const NamedTensor& named : trainer.loop.optimizer().State())
      EXPECT_GT(named.tensor.abs().sum().item<double>(), 0);
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      auto mine = rank == 0 ? store : Rendezvous::Connect(store->address(), std::chrono::seconds(20));
      auto group = meet(mine, rank);
      Trainer trainer(settings, *group);
      if (rank != survivor) tear(rank, trainer);
      if (rank != survivor) {
        EXPECT_EQ(trainer.loop.Run(), "");
      } else {
        EXPECT_THROW(trainer.loop.Run(), CollectiveError);
        EXPECT_TRUE(trainer.loop.holds_state());
      }
      group.reset();
      const auto alone = MakeSingleProcessCollective();
      Recorder recorder;
      if (rank == survivor) return finish(rank, trainer, recorder, false);
      Trainer newcomer(settings, *alone);
      finish(rank, newcomer, recorder, true);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TrainLoopTest, ANewRankGetsTheStateOfTheSurvivorThatWasTornOutOfAStep) {
  for (const int survivor : {0, 1}) {
    ExpectANewcomerGetsTheStateOfTheSurvivor(survivor, 0, [](int, Trainer& trainer) {
      trainer.recorder.on_step = [&](const StepReport& report) {
        if (report.step == 5) trainer.loop.RequestStop();
      };
    });
  }
}

TEST(TrainLoopTest, AnEvaluationThatWasTornIsDoneAgain) {
  for (const int survivor : {0, 1}) {
    ExpectANewcomerGetsTheStateOfTheSurvivor(survivor, 2, [](int, Trainer& trainer) {
      // The stop is seen in the evaluation after this step, at which the other rank then waits.
      trainer.recorder.on_step = [&](const StepReport& report) {
        if (report.step == 4) trainer.loop.RequestStop();
      };
    });
  }
}

TEST(TrainLoopTest, WithoutAnyStateToTakeARankSaysSo) {
  Settings settings;
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  trainer.loop.TakeStateFromPeers();
  EXPECT_THROW(trainer.loop.Run(), StateLostError);
}

TEST(TrainLoopTest, AStepWithANonFiniteGradientIsSkippedAndCounted) {
  Settings settings;
  settings.train.steps = 3;
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  trainer.engine.spoil = [](int call) { return call == 2; };
  std::vector<at::Tensor> after;
  trainer.recorder.on_step = [&](const StepReport&) { after.push_back(trainer.parameters.values().clone()); };
  EXPECT_EQ(trainer.loop.Run(), "steps");
  EXPECT_TRUE(trainer.recorder.steps[1].skipped);
  EXPECT_TRUE(at::equal(after[0], after[1]));
  EXPECT_FALSE(at::equal(after[1], after[2]));
  EXPECT_EQ(trainer.loop.state().skipped_steps, 1);
  EXPECT_EQ(trainer.loop.state().optimizer_steps, 2);
}

TEST(TrainLoopTest, ANonFiniteGradientOfOneRankIsSkippedByAll) {
  Settings settings;
  settings.train.steps = 3;
  RunRanks(
      2, settings, [](int, Trainer& trainer) { EXPECT_EQ(trainer.loop.state().skipped_steps, 1); },
      [](int rank, Trainer& trainer) {
        if (rank == 1) trainer.engine.spoil = [](int call) { return call == 2; };
      });
}

TEST(TrainLoopTest, TooManyNonFiniteStepsInARowAreAPermanentError) {
  Settings settings;
  settings.train.max_nonfinite_steps = 3;
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  trainer.engine.spoil = [](int call) { return call != 3; };  // two in a row, one good, then bad for good
  try {
    trainer.loop.Run();
    FAIL();
  } catch (const PermanentError& error) {
    EXPECT_THAT(error.what(), HasSubstr("step 6: the gradient was not finite in 3 steps in a row"));
  }
}

TEST(TrainLoopTest, StopWhenEndsTrainingAtTheFirstLengthWithACheckpoint) {
  Settings settings;
  settings.train.eval_every = 3;
  settings.train.eval_lengths = {3, 5};
  settings.train.stop_when = Condition{"loss", Condition::Op::kBelow, 100};
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  EXPECT_EQ(trainer.loop.Run(), "stop_when: loss < 100 at step 3");
  EXPECT_EQ(trainer.recorder.checkpoints.back().state.step, 3);

  // A trainer that is started again from this checkpoint has nothing left to do.
  Trainer again(settings, *alone);
  again.loop.Restore(trainer.loop.state(), trainer.loop.optimizer().State());
  EXPECT_EQ(again.loop.Run(), "stop_when: loss < 100 at step 3");
  EXPECT_TRUE(again.recorder.steps.empty());
}

TEST(TrainLoopTest, FinalLengthsAreEvaluatedOnceHoweverTrainingEnds) {
  Settings settings;
  settings.train.eval_every = 5;
  settings.train.eval_lengths = {3};
  settings.train.final_lengths = {6, 9};
  settings.train.final_sequences = 4;
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  trainer.loop.Run();
  std::vector<std::pair<int64_t, int64_t>> evals;
  for (const EvalReport& eval : trainer.recorder.evals) evals.emplace_back(eval.step, eval.length);
  EXPECT_EQ(evals, (std::vector<std::pair<int64_t, int64_t>>{{5, 3}, {10, 3}, {10, 6}, {10, 9}}));

  settings.train.stop_when = Condition{"loss", Condition::Op::kBelow, 100};
  Trainer stops(settings, *alone);
  EXPECT_EQ(stops.loop.Run(), "stop_when: loss < 100 at step 5");
  EXPECT_EQ(stops.recorder.evals.size(), 3u);
  EXPECT_EQ(stops.recorder.evals.back().length, 9);
}

TEST(TrainLoopTest, TheCurriculumAdvancesWhenItsConditionHolds) {
  Settings settings;
  settings.train.steps = 8;
  settings.train.eval_every = 2;
  settings.train.eval_lengths = {9};
  settings.train.curriculum = {{3, 5, 9}, {"loss", Condition::Op::kBelow, 100}};
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  trainer.loop.Run();
  std::vector<int64_t> lengths;
  for (const StepReport& step : trainer.recorder.steps) lengths.push_back(step.length);
  EXPECT_EQ(lengths, (std::vector<int64_t>{3, 3, 5, 5, 9, 9, 9, 9}));
  EXPECT_EQ(trainer.recorder.checkpoints.at(0).state.curriculum_stage, 2);

  settings.train.curriculum.advance_when.value = 0;
  Trainer stays(settings, *alone);
  stays.loop.Run();
  EXPECT_EQ(stays.recorder.steps.back().length, 3);
}

TEST(TrainLoopTest, AVaryingCurriculumDrawsLengthsUpToThePresentOneFromTheSeedAndTheStep) {
  Settings settings;
  settings.train.steps = 40;
  settings.train.eval_every = 20;
  settings.train.curriculum = {{3, 5, 9}, {"loss", Condition::Op::kBelow, 100}, /*vary=*/true, /*seed=*/7};
  auto alone = MakeSingleProcessCollective();
  const auto lengths_of = [&] {
    Trainer trainer(settings, *alone);
    trainer.loop.Run();
    std::vector<int64_t> lengths;
    for (const StepReport& step : trainer.recorder.steps) lengths.push_back(step.length);
    return lengths;
  };
  const std::vector<int64_t> lengths = lengths_of();
  EXPECT_EQ(std::set<int64_t>(lengths.begin(), lengths.begin() + 20), (std::set<int64_t>{3}));
  EXPECT_EQ(std::set<int64_t>(lengths.begin() + 20, lengths.end()), (std::set<int64_t>{3, 4, 5}));
  EXPECT_EQ(lengths_of(), lengths);
  settings.train.curriculum.seed = 8;
  EXPECT_NE(lengths_of(), lengths);
}

TEST(TrainLoopTest, AStopRequestEndsItAfterThePresentStep) {
  Settings settings;
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  trainer.recorder.on_step = [&](const StepReport& report) {
    if (report.step == 3) trainer.loop.RequestStop();
  };
  EXPECT_EQ(trainer.loop.Run(), "");
  EXPECT_EQ(trainer.loop.state().step, 3);
  EXPECT_TRUE(trainer.recorder.checkpoints.empty());
}

TEST(TrainLoopTest, AJobThatIsAskedToLeaveDoesSoAfterThatStepWithACheckpoint) {
  Settings settings;
  auto alone = MakeSingleProcessCollective();
  Trainer trainer(settings, *alone);
  trainer.recorder.on_step = [&](const StepReport& report) {
    if (report.step == 2) trainer.loop.RequestLeave();
  };
  EXPECT_EQ(trainer.loop.Run(), "leave");
  EXPECT_EQ(trainer.loop.state().step, 3);
  ASSERT_EQ(trainer.recorder.checkpoints.size(), 1);
  EXPECT_EQ(trainer.recorder.checkpoints[0].state.step, 3);
  EXPECT_EQ(trainer.recorder.checkpoints[0].state.stop_reason, "");
}

TEST(TrainLoopTest, AllRanksLeaveAfterTheSameStepWhicheverIsAsked) {
  for (int asked = 0; asked < 2; ++asked) {
    std::vector<int64_t> steps(2);
    RunRanks(
        2, Settings(),
        [&](int rank, Trainer& trainer) {
          steps[static_cast<size_t>(rank)] = trainer.loop.state().step;
          EXPECT_EQ(trainer.recorder.checkpoints.back().state.step, trainer.loop.state().step);
        },
        [&](int rank, Trainer& trainer) {
          trainer.recorder.on_step = [&trainer, leaves = rank == asked](const StepReport& report) {
            if (leaves && report.step == 5) trainer.loop.RequestLeave();
          };
        });
    EXPECT_EQ(steps, std::vector<int64_t>({6, 6}));
  }
}

TEST(TrainLoopTest, AConditionOnAFigureThatTheTaskLacksIsRefused) {
  Settings settings;
  settings.train.stop_when = Condition{"bits", Condition::Op::kBelow, 1};
  auto alone = MakeSingleProcessCollective();
  try {
    Trainer trainer(settings, *alone);
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_THAT(error.what(), HasSubstr("eval.stop_when: this task has no figure 'bits'; it has loss, accuracy, ce10"));
  }
}

TEST(ConditionTest, NeverHoldsForNan) {
  for (const auto op :
       {Condition::Op::kAtLeast, Condition::Op::kAtMost, Condition::Op::kAbove, Condition::Op::kBelow}) {
    EXPECT_FALSE((Condition{"loss", op, 1}).Holds(std::nan("")));
  }
  EXPECT_TRUE((Condition{"loss", Condition::Op::kAtLeast, 1}).Holds(1));
  EXPECT_FALSE((Condition{"loss", Condition::Op::kAbove, 1}).Holds(1));
}

}  // namespace
}  // namespace sab::model
