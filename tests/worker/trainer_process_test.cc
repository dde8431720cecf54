// The real sab-trainer against a fake agent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>

#include "common/checkpoint/checkpoint.h"
#include "tests/util/temp_dir.h"
#include "tests/worker/fake_trainer_agent.h"

extern char** environ;

namespace sab::trainer {
namespace {

using ::testing::HasSubstr;

v1::JobSpec CopyJob(int64_t steps) {
  v1::JobSpec spec;
  spec.mutable_model()->set_kind(v1::MODEL_KIND_SAB);
  spec.mutable_model()->set_hidden_size(8);
  spec.mutable_task()->set_kind(v1::TASK_KIND_COPY);
  spec.mutable_task()->set_length(3);
  spec.mutable_task()->set_one_hot(true);
  spec.mutable_train()->set_batch_size(5);
  spec.mutable_train()->set_steps(steps);
  spec.mutable_train()->set_clip_norm(1);
  spec.mutable_eval()->set_every(10);
  spec.mutable_eval()->add_lengths(3);
  spec.mutable_eval()->add_lengths(6);
  spec.mutable_eval()->set_sequences(8);
  spec.mutable_checkpoint()->set_every(12);
  return spec;
}

class TrainerProcessTest : public ::testing::Test {
 protected:
  v1::GetAssignmentResponse Assignment(const v1::JobSpec& spec, int world_size = 1) const {
    v1::GetAssignmentResponse response;
    *response.mutable_assignment()->mutable_spec() = spec;
    response.mutable_assignment()->set_world_size(world_size);
    response.mutable_assignment()->set_worker_count(1);
    response.set_device("cpu");
    response.set_threads(1);
    response.set_host("127.0.0.1");
    response.set_checkpoint_dir(Parent());
    return response;
  }
  std::string Parent() const { return CheckpointParent(folder_.path(), "jobs/x"); }
  std::string Socket() { return folder_.path() + "/s" + std::to_string(++sockets_); }

  static pid_t Start(const FakeAgent& agent, int rank = 0, int attempt = 1) {
    std::vector<std::string> environment = {
        "SAB_AGENT_SOCKET=" + agent.address(),
        "SAB_TRAINER_ID=jobs/x/attempts/" + std::to_string(attempt) + "/ranks/" + std::to_string(rank)};
    for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
    std::vector<char*> pointers;
    for (std::string& entry : environment) pointers.push_back(entry.data());
    pointers.push_back(nullptr);
    std::string program = SAB_TRAINER;
    char* arguments[] = {program.data(), nullptr};
    pid_t pid = 0;
    EXPECT_EQ(posix_spawn(&pid, SAB_TRAINER, nullptr, nullptr, arguments, pointers.data()), 0);
    return pid;
  }
  // Exit code, or 128 + signal.
  static int Wait(pid_t pid) {
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  std::string DigestOf(const v1::Checkpoint& checkpoint, std::string_view file) const {
    const std::string folder = Parent() + "/" + checkpoint.name().substr(checkpoint.name().rfind('/') + 1);
    EXPECT_TRUE(VerifyCheckpoint(folder).ok());
    return Sha256OfFile(folder + "/" + std::string(file)).value_or("missing");
  }

  testing_util::TempDir folder_;
  int sockets_ = 0;
};

TEST_F(TrainerProcessTest, TrainsReportsAndSaves) {
  FakeAgent agent(Socket(), Assignment(CopyJob(30)));
  EXPECT_EQ(Wait(Start(agent)), 0);
  const v1::ReportProgressRequest last = agent.last(0);
  EXPECT_EQ(last.phase(), v1::TRAINER_PHASE_SUCCEEDED);
  EXPECT_EQ(last.stop_reason(), "steps");
  EXPECT_EQ(last.step(), 30);
  std::set<std::string> train, eval;
  std::set<int64_t> train_steps;
  for (const v1::MetricPoint& point : agent.points()) {
    if (point.split() == "train") {
      train.insert(point.name());
      train_steps.insert(point.step());
    }
    if (point.split() == "eval")
      eval.insert(point.name() + "@" + std::to_string(point.length()) + "/" + std::to_string(point.step()));
  }
  for (const char* name :
       {"loss", "accuracy", "ce10", "gradient_norm", "learning_rate", "max_hidden_norm", "guarded_fraction"}) {
    EXPECT_TRUE(train.count(name)) << name;
  }
  for (const int64_t step : {1, 10, 12, 20, 24, 30}) EXPECT_TRUE(train_steps.count(step)) << step;
  for (const char* point : {"loss@3/10", "accuracy@6/20", "ce10@3/30", "loss@6/30"})
    EXPECT_TRUE(eval.count(point)) << point;
  std::vector<int64_t> saved;
  for (const v1::Checkpoint& checkpoint : agent.checkpoints()) saved.push_back(checkpoint.step());
  EXPECT_EQ(saved, (std::vector<int64_t>{12, 24, 30}));
  EXPECT_TRUE(agent.checkpoints().back().has_eval_loss());
}

TEST_F(TrainerProcessTest, ATrainerEndsAtItsRungWithItsFigure) {
  v1::GetAssignmentResponse assignment = Assignment(CopyJob(30));
  assignment.mutable_assignment()->set_rung(17);
  assignment.mutable_assignment()->mutable_spec()->mutable_halving()->set_metric("ce10");
  FakeAgent agent(Socket(), assignment);
  EXPECT_EQ(Wait(Start(agent)), 0);
  EXPECT_EQ(agent.last(0).stop_reason(), "rung");
  EXPECT_EQ(agent.last(0).step(), 17);
  const v1::Checkpoint saved = agent.checkpoints().back();
  EXPECT_EQ(saved.step(), 17);
  double figure = 0;
  for (const v1::MetricPoint& point : agent.points()) {
    if (point.split() == "eval" && point.name() == "ce10" && point.length() == 3 && point.step() == 17)
      figure = point.value();
  }
  EXPECT_GT(figure, 0);
  EXPECT_EQ(saved.ranked_figure(), figure);
}

TEST_F(TrainerProcessTest, ATrainerKilledAndResumedEndsWithTheSameBits) {
  std::string expected;
  {
    FakeAgent agent(Socket(), Assignment(CopyJob(30)));
    ASSERT_EQ(Wait(Start(agent, 0, 7)), 0);
    expected = DigestOf(agent.checkpoints().back(), kModelFile);
  }
  v1::Checkpoint source;
  {
    FakeAgent agent(Socket(), Assignment(CopyJob(100000)));
    const pid_t pid = Start(agent, 0, 1);
    agent.AwaitCheckpoint();
    kill(pid, SIGKILL);
    EXPECT_EQ(Wait(pid), 128 + SIGKILL);
    source = agent.checkpoints().front();
    ASSERT_EQ(source.step(), 12);
  }
  v1::GetAssignmentResponse resumed = Assignment(CopyJob(30));
  resumed.set_resume_dir(Parent() + "/" + source.name().substr(source.name().rfind('/') + 1));
  FakeAgent agent(Socket(), resumed);
  ASSERT_EQ(Wait(Start(agent, 0, 2)), 0);
  EXPECT_EQ(agent.points().front().step(), 13);
  EXPECT_EQ(DigestOf(agent.checkpoints().back(), kModelFile), expected);
}

TEST_F(TrainerProcessTest, TwoRanksMeetAndTrainAsOne) {
  FakeAgent agent(Socket(), Assignment(CopyJob(20), 2));
  const pid_t second = Start(agent, 1);
  const pid_t first = Start(agent, 0);
  EXPECT_EQ(Wait(first), 0);
  EXPECT_EQ(Wait(second), 0);
  EXPECT_EQ(agent.last(1).phase(), v1::TRAINER_PHASE_SUCCEEDED);
  double loss = 0;
  for (const v1::MetricPoint& point : agent.points()) {
    if (point.split() == "eval" && point.name() == "loss" && point.length() == 3 && point.step() == 20)
      loss = point.value();
  }
  FakeAgent alone_agent(Socket(), Assignment(CopyJob(20)));
  ASSERT_EQ(Wait(Start(alone_agent, 0, 2)), 0);
  double alone = -1;
  for (const v1::MetricPoint& point : alone_agent.points()) {
    if (point.split() == "eval" && point.name() == "loss" && point.length() == 3 && point.step() == 20)
      alone = point.value();
  }
  EXPECT_NEAR(loss, alone, 1e-4);
}

TEST_F(TrainerProcessTest, ARankWhosePeerIsKilledFailsAndNamesTheCall) {
  FakeAgent agent(Socket(), Assignment(CopyJob(100000), 2));
  const pid_t first = Start(agent, 0);
  const pid_t second = Start(agent, 1);
  agent.AwaitStep(2);
  kill(second, SIGKILL);
  EXPECT_EQ(Wait(second), 128 + SIGKILL);
  EXPECT_EQ(Wait(first), 1);
  EXPECT_THAT(agent.last(0).failure(), HasSubstr("rank 0 of 2: all-reduce: "));
  EXPECT_FALSE(agent.last(0).permanent());
}

TEST_F(TrainerProcessTest, ASurvivorGoesOnFromItsMemoryInTheSameProcessWithANewPeer) {
  std::string expected;
  {
    FakeAgent agent(Socket(), Assignment(CopyJob(400), 2));
    const pid_t second = Start(agent, 1, 7);
    ASSERT_EQ(Wait(Start(agent, 0, 7)), 0);
    ASSERT_EQ(Wait(second), 0);
    expected = DigestOf(agent.checkpoints().back(), kModelFile);
  }
  for (const int survivor : {0, 1}) {
    FakeAgent agent(Socket(), Assignment(CopyJob(400), 2));
    agent.KnowRelease();
    pid_t ranks[] = {Start(agent, 0), Start(agent, 1)};
    agent.AwaitStep(20);
    kill(ranks[1 - survivor], SIGKILL);
    EXPECT_EQ(Wait(ranks[1 - survivor]), 128 + SIGKILL);
    agent.Release(2);
    ranks[1 - survivor] = Start(agent, 1 - survivor, 2);
    EXPECT_EQ(Wait(ranks[0]), 0) << survivor;
    EXPECT_EQ(Wait(ranks[1]), 0) << survivor;
    for (const int rank : {0, 1}) {
      EXPECT_EQ(agent.last(rank).restored().source_rank(), survivor);
      EXPECT_GE(agent.last(rank).restored().step(), 20);
      EXPECT_EQ(agent.last(rank).id().attempt(), 2);
    }
    EXPECT_EQ(DigestOf(agent.checkpoints().back(), kModelFile), expected) << survivor;
  }
}

// Rank 0 is killed while it writes what the job ends with: the other still has it.
TEST_F(TrainerProcessTest, APeerKeepsTheStateUntilTheLastCheckpointIsPublished) {
  v1::JobSpec spec = CopyJob(20);
  spec.mutable_checkpoint()->set_every(0);
  std::string expected;
  {
    FakeAgent agent(Socket(), Assignment(spec, 2));
    const pid_t second = Start(agent, 1, 7);
    ASSERT_EQ(Wait(Start(agent, 0, 7)), 0);
    ASSERT_EQ(Wait(second), 0);
    expected = DigestOf(agent.checkpoints().back(), kModelFile);
  }
  FakeAgent agent(Socket(), Assignment(spec, 2));
  agent.KnowRelease();
  agent.HoldCheckpoints(true);
  const pid_t second = Start(agent, 1);
  const pid_t first = Start(agent, 0);
  agent.AwaitHeld();
  kill(first, SIGKILL);
  EXPECT_EQ(Wait(first), 128 + SIGKILL);
  agent.HoldCheckpoints(false);
  agent.Release(2);
  EXPECT_EQ(Wait(Start(agent, 0, 2)), 0);
  EXPECT_EQ(Wait(second), 0);
  EXPECT_EQ(agent.last(1).id().attempt(), 2);
  EXPECT_EQ(agent.last(0).restored().source_rank(), 1);
  EXPECT_EQ(agent.last(0).restored().step(), 20);
  EXPECT_EQ(agent.last(0).phase(), v1::TRAINER_PHASE_SUCCEEDED);
  EXPECT_EQ(DigestOf(agent.checkpoints().back(), kModelFile), expected);
}

TEST_F(TrainerProcessTest, ADiskThatIsFullDoesNotEndTheTrainingBeforeItsEnd) {
  FakeAgent agent(Socket(), Assignment(CopyJob(30)));
  const pid_t pid = Start(agent);
  const rlimit least = {1000, 1000};
  ASSERT_EQ(prlimit(pid, RLIMIT_FSIZE, &least, nullptr), 0);
  EXPECT_EQ(Wait(pid), 1);
  EXPECT_EQ(agent.last(0).step(), 30);
  EXPECT_TRUE(agent.checkpoints().empty());
  EXPECT_THAT(agent.last(0).failure(), HasSubstr("checkpoint needs"));
  EXPECT_THAT(agent.last(0).failure(), HasSubstr("File too large"));
  EXPECT_FALSE(agent.last(0).permanent());
}

TEST_F(TrainerProcessTest, SigtermEndsItAtOnceWith143) {
  FakeAgent agent(Socket(), Assignment(CopyJob(100000)));
  const pid_t pid = Start(agent);
  agent.AwaitStep(2);
  kill(pid, SIGTERM);
  EXPECT_EQ(Wait(pid), 143);
  EXPECT_EQ(agent.last(0).phase(), v1::TRAINER_PHASE_TRAINING);
}

TEST_F(TrainerProcessTest, SigtermReleasesARankThatWaitsForAPeer) {
  FakeAgent agent(Socket(), Assignment(CopyJob(100000), 2));
  const pid_t first = Start(agent, 0);
  const pid_t second = Start(agent, 1);
  agent.AwaitStep(2);
  kill(second, SIGSTOP);
  kill(first, SIGTERM);
  EXPECT_EQ(Wait(first), 143);
  kill(second, SIGKILL);
  Wait(second);
}

TEST_F(TrainerProcessTest, AnAnswerOfAbortedEndsIt) {
  FakeAgent agent(Socket(), Assignment(CopyJob(100000)));
  const pid_t pid = Start(agent);
  agent.AwaitStep(2);
  agent.Abort();
  EXPECT_EQ(Wait(pid), 143);
}

TEST_F(TrainerProcessTest, APathThatDoesNotExistIsAPermanentFailureThatNamesIt) {
  v1::JobSpec spec = CopyJob(10);
  spec.mutable_task()->Clear();
  spec.mutable_task()->set_kind(v1::TASK_KIND_TEXT);
  spec.mutable_task()->set_path("/nowhere/book.txt");
  spec.mutable_eval()->clear_lengths();
  FakeAgent agent(Socket(), Assignment(spec));
  EXPECT_EQ(Wait(Start(agent)), 1);
  EXPECT_EQ(agent.last(0).phase(), v1::TRAINER_PHASE_FAILED);
  EXPECT_THAT(agent.last(0).failure(), HasSubstr("task.path '/nowhere/book.txt': cannot be read: No such file"));
  EXPECT_TRUE(agent.last(0).permanent());
}

TEST_F(TrainerProcessTest, ADamagedCheckpointIsAFailureThatNamesTheFile) {
  v1::GetAssignmentResponse assignment = Assignment(CopyJob(12));
  {
    FakeAgent agent(Socket(), assignment);
    ASSERT_EQ(Wait(Start(agent)), 0);
    const std::string name = agent.checkpoints().back().name();
    assignment.set_resume_dir(Parent() + "/" + name.substr(name.rfind('/') + 1));
  }
  std::string content = *ReadFile(assignment.resume_dir() + "/model.safetensors");
  content.back() ^= 1;
  ASSERT_TRUE(WriteFileDurably(assignment.resume_dir() + "/model.safetensors", content).ok());
  FakeAgent agent(Socket(), assignment);
  EXPECT_EQ(Wait(Start(agent, 0, 2)), 1);
  EXPECT_THAT(agent.last(0).failure(), HasSubstr("model.safetensors"));
}

TEST_F(TrainerProcessTest, AnAgentThatIsGoneEndsIt) {
  pid_t pid = 0;
  {
    FakeAgent agent(Socket(), Assignment(CopyJob(1000000)));
    pid = Start(agent);
    agent.AwaitStep(2);
  }
  EXPECT_EQ(Wait(pid), 143);
}

}  // namespace
}  // namespace sab::trainer
