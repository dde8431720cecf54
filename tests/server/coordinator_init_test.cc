// Jobs that start from another job's checkpoint.
#include <gmock/gmock.h>

#include "common/checkpoint/safetensors.h"
#include "common/spec/parameters.h"
#include "tests/server/coordinator_fixture.h"

namespace sab::server {
namespace {

using ::testing::HasSubstr;

class CoordinatorInitTest : public CoordinatorFixture {
 protected:
  CoordinatorInitTest() { Join(agent_); }

  // The parameters of `spec`'s network as a checkpoint of `job`.
  v1::Checkpoint RecordParameters(const JobId& job, int64_t step, const v1::JobSpec& spec = CopySpec()) {
    v1::Checkpoint header;
    header.set_name(CheckpointName{job, MakeCheckpointId(step, 1)}.name());
    header.set_step(step);
    header.set_attempt(1);
    auto writer = CheckpointWriter::Create(CheckpointParent(checkpoint_dir(), job.name()), header);
    EXPECT_TRUE(writer.ok());
    const std::vector<spec::ParameterShape> parameters = spec::ParametersOf(spec);
    std::vector<std::vector<std::byte>> data;
    std::vector<TensorView> views;
    for (const spec::ParameterShape& parameter : parameters) {
      size_t bytes = 4;
      for (const int64_t size : parameter.shape) bytes *= static_cast<size_t>(size);
      data.emplace_back(bytes);
    }
    for (size_t i = 0; i < parameters.size(); ++i)
      views.push_back({parameters[i].name, "F32", parameters[i].shape, data[i]});
    EXPECT_TRUE(writer->AddSafetensors(kModelFile, views).ok());
    EXPECT_TRUE(writer->AddFile(kStateFile, "{}").ok());
    v1::RecordCheckpointRequest request;
    request.set_worker(agent_.worker());
    request.mutable_id()->set_job(job.name());
    request.mutable_id()->set_attempt(1);
    *request.mutable_checkpoint() = *writer->Commit();
    const auto recorded = coordinator_->RecordCheckpoint(request);
    EXPECT_TRUE(recorded.ok()) << recorded.status();
    return recorded.ok() ? *recorded : v1::Checkpoint();
  }

  static v1::JobSpec From(const std::string& checkpoint, bool optimizer = false) {
    v1::JobSpec spec = CopySpec();
    spec.mutable_init_from()->set_checkpoint(checkpoint);
    if (optimizer) spec.mutable_init_from()->set_optimizer(true);
    return spec;
  }

  std::string Refusal(const v1::JobSpec& spec) {
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    const auto response = coordinator_->CreateJob(request);
    EXPECT_TRUE(absl::IsInvalidArgument(response.status())) << response.status();
    return std::string(response.status().message());
  }

  FakeAgent agent_{"workers/w1", 4};
};

TEST_F(CoordinatorInitTest, TheParametersAloneBeginAtStepZeroAndTheOptimiserGoesOnAtItsStep) {
  const JobId source = Running(agent_);
  const std::string name = RecordParameters(source, 40).name();
  for (const bool optimizer : {false, true}) {
    const JobId fork = Submit(From(name, optimizer));
    Background();
    Settle(agent_);
    const v1::TrainerAssignment assignment = agent_.Assignment(fork.name());
    EXPECT_EQ(assignment.resume_from().name(), name);
    const v1::Job job = Get(fork);
    EXPECT_EQ(job.attempts(0).recovery_source(), name);
    EXPECT_EQ(job.attempts(0).start_step(), optimizer ? 40 : 0);
    EXPECT_EQ(job.step(), optimizer ? 40 : 0);
  }
}

TEST_F(CoordinatorInitTest, ACheckpointThatDoesNotFitIsRefusedWithTheTensorAndTheSetting) {
  const JobId source = Running(agent_);
  const std::string name = RecordParameters(source, 40).name();
  v1::JobSpec spec = From(name);
  spec.mutable_model()->set_hidden_size(16);
  const std::string wrong_size = Refusal(spec);
  EXPECT_THAT(wrong_size, HasSubstr("cell.weight_ih (32, 1), this network (64, 1)"));
  EXPECT_THAT(wrong_size, HasSubstr("model.hidden_size 16 where that job had 8"));
  EXPECT_THAT(wrong_size, HasSubstr("sabctl get " + source.name()));
  spec = From(name);
  spec.mutable_model()->set_score(v1::SCORE_KIND_SEPARABLE);
  EXPECT_THAT(Refusal(spec), HasSubstr("has no parameter attention.query_score.weight"));
  EXPECT_THAT(Refusal(From(source.name() + "/checkpoints/000000000041-a1")), HasSubstr("does not exist"));
  EXPECT_THAT(Refusal(From("jobs/nobody/checkpoints/000000000041-a1")), HasSubstr("jobs/nobody does not exist"));
  EXPECT_THAT(Refusal(From(source.name())), HasSubstr("init_from.checkpoint"));
}

TEST_F(CoordinatorInitTest, AContinuationNeedsTheSameOptimiserAndStepsBeyondTheCheckpoint) {
  const JobId source = Running(agent_);
  const std::string name = RecordParameters(source, 40).name();
  v1::JobSpec spec = From(name, true);
  spec.mutable_train()->set_steps(40);
  EXPECT_THAT(Refusal(spec), HasSubstr("train.steps: must be above 40"));
  spec.mutable_train()->set_steps(50);
  spec.mutable_train()->set_optimizer(v1::OPTIMIZER_KIND_SGD);
  EXPECT_THAT(Refusal(spec), HasSubstr("state of another optimiser"));
}

TEST_F(CoordinatorInitTest, TheCheckpointIsKeptUntilTheForkHasOneOfItsOwnAlsoAfterARestart) {
  v1::JobSpec spec = CopySpec();
  spec.mutable_checkpoint()->set_keep_latest(1);
  spec.mutable_checkpoint()->set_keep_best(0);
  const JobId source = Running(agent_, spec);
  const std::string name = RecordParameters(source, 10).name();
  const auto kept = [&] { return coordinator_->GetCheckpoint(*ParseCheckpointName(name)).ok(); };
  const JobId fork = Submit(From(name));
  Start();
  RecordParameters(source, 20);
  EXPECT_TRUE(kept());
  ASSERT_TRUE(coordinator_->CancelJob(source).ok());
  EXPECT_THAT(std::string(coordinator_->DeleteJob(source).message()), HasSubstr(fork.name() + " starts from"));
  Background();
  Settle(agent_);
  Settle(agent_);
  RecordParameters(fork, 5);
  EXPECT_TRUE(coordinator_->DeleteJob(source).ok());
  EXPECT_FALSE(kept());
}

TEST_F(CoordinatorInitTest, AForkWhoseCheckpointIsDamagedFailsAndSaysSo) {
  const JobId source = Running(agent_);
  const v1::Checkpoint checkpoint = RecordParameters(source, 10);
  const JobId fork = Submit(From(checkpoint.name()));
  std::string file = coordinator_->FolderOf(*ParseCheckpointName(checkpoint.name())) + "/" + std::string(kModelFile);
  std::string content = *ReadFile(file);
  content.back() ^= 1;
  ASSERT_TRUE(WriteFileDurably(file, content).ok());
  Background();
  EXPECT_EQ(State(fork), v1::JOB_STATE_FAILED);
  EXPECT_THAT(Get(fork).failure(), HasSubstr(checkpoint.name()));
}

}  // namespace
}  // namespace sab::server
