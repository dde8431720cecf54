#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "common/base/status.h"
#include "tests/client/fake_service.h"
#include "tests/util/temp_dir.h"

namespace sab::client {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kGoodFile[] =
    "name: copy-10\n"
    "model: {kind: sab, hidden_size: 16}\n"
    "task:\n"
    "  kind: copy\n"
    "  length: 10\n"
    "train:\n"
    "  steps: 100\n";

// Whole command lines against a scripted coordinator.
class SabctlTest : public ::testing::Test {
 protected:
  struct Result {
    int code;
    std::string out, err;
  };

  Result Run(std::vector<std::string> arguments, const std::string& input = "",
             const std::map<std::string, std::string>& environment = {}) {
    std::istringstream in(input);
    std::ostringstream out, err;
    if (environment.empty()) arguments.insert(arguments.begin(), {"--address", fake_.address()});
    const int code = RunSabctl(arguments, {.in = in, .out = out, .err = err}, environment);
    return {code, out.str(), err.str()};
  }

  std::string WriteFile(const std::string& name, const std::string& text) {
    const std::string path = dir_.path() + "/" + name;
    std::ofstream(path) << text;
    return path;
  }

  static v1::Job SomeJob(v1::JobState state = v1::JOB_STATE_RUNNING) {
    v1::Job job;
    job.set_name("jobs/abc");
    job.set_state(state);
    job.set_version(1);
    job.set_step(42);
    job.mutable_spec()->set_name("copy-10");
    job.mutable_spec()->mutable_train()->set_steps(100);
    return job;
  }

  void AcceptJobs() {
    fake_.create_job = [this](const v1::CreateJobRequest& request, v1::CreateJobResponse* response) {
      created_.push_back(request);
      *response->mutable_job() = SomeJob(v1::JOB_STATE_QUEUED);
      *response->mutable_job()->mutable_spec() = request.spec();
      if (request.validate_only()) response->mutable_job()->clear_name();
      response->mutable_cost()->set_parameters(1234);
      return absl::OkStatus();
    };
  }
  void WatchEndsWith(v1::JobState state) {
    fake_.watch_job = [=](const v1::WatchJobRequest&, const auto& write) {
      v1::WatchJobResponse response;
      *response.mutable_job() = SomeJob(state);
      write(response);
      return absl::OkStatus();
    };
    fake_.watch_metrics = [](const v1::WatchMetricsRequest&, const auto& write) {
      v1::WatchMetricsResponse response;
      v1::MetricPoint* point = response.add_points();
      point->set_step(40);
      point->set_split("eval");
      point->set_name("accuracy");
      point->set_value(0.5);
      point->set_sequence(1);
      write(response);
      return absl::OkStatus();
    };
  }

  testing_util::TempDir dir_;
  FakeService fake_;
  std::vector<v1::CreateJobRequest> created_;
};

TEST_F(SabctlTest, SubmitPrintsTheNameAloneForScripts) {
  AcceptJobs();
  const Result result = Run({"submit", WriteFile("job.yaml", kGoodFile), "-o", "name"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "jobs/abc\n");
  ASSERT_EQ(created_.size(), 1);
  EXPECT_EQ(created_[0].spec().task().length(), 10);
  EXPECT_FALSE(created_[0].validate_only());
}

TEST_F(SabctlTest, SubmitReadsStandardInputAndOverrides) {
  AcceptJobs();
  const Result result =
      Run({"submit", "-", "--set", "train.steps=500", "--set", "eval.lengths=[20,40]", "--quiet"}, kGoodFile);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "jobs/abc\n");
  ASSERT_EQ(created_.size(), 1);
  EXPECT_EQ(created_[0].spec().train().steps(), 500);
  EXPECT_THAT(created_[0].spec().eval().lengths(), ElementsAre(20, 40));
}

TEST_F(SabctlTest, SubmitOfASweepCreatesOneJobForEachPointInOneGroup) {
  AcceptJobs();
  const Result result =
      Run({"submit", "-"}, absl::StrCat(kGoodFile, "sweep:\n  grid: {train.steps: [5, 6]}\n  max_parallel: 1\n"));
  EXPECT_EQ(result.code, 0) << result.err;
  ASSERT_EQ(created_.size(), 2);
  EXPECT_EQ(created_[0].spec().name(), "copy-10-1");
  EXPECT_EQ(created_[1].spec().train().steps(), 6);
  EXPECT_EQ(created_[1].spec().labels().at("sweep.steps"), "6");
  const std::string group = created_[0].spec().queue().group();
  EXPECT_EQ(created_[1].spec().labels().at("sweep"), group);
  EXPECT_EQ(created_[1].spec().queue().max_parallel(), 1);
  EXPECT_THAT(result.err, HasSubstr("sabctl list --label sweep=" + group));
}

TEST_F(SabctlTest, SubmitOfASweepWithHalvingTellsEachTrialTheSame) {
  AcceptJobs();
  const Result result =
      Run({"submit", "-", "--sweep", "mine"}, absl::StrCat(kGoodFile,
                                                           "sweep:\n  grid: {train.seed: [1, 2, 3, 4]}\n"
                                                           "  halving: {metric: accuracy, factor: 2, first: 3}\n"));
  EXPECT_EQ(result.code, 0) << result.err;
  ASSERT_EQ(created_.size(), 4);
  for (size_t i = 0; i < created_.size(); ++i) {
    EXPECT_EQ(created_[i].request_id(), absl::StrCat("mine.", i + 1)) << "another client may submit the rest";
    EXPECT_EQ(created_[i].spec().queue().group(), "mine");
    const v1::HalvingSpec& halving = created_[i].spec().halving();
    EXPECT_EQ(halving.trials(), 4);
    EXPECT_EQ(halving.metric(), "accuracy");
    EXPECT_THAT(halving.rungs(), ElementsAre(3, 6));
  }
  EXPECT_THAT(result.err, HasSubstr("4 trials; the best 2 go on after step 3, 1 after step 6"));
}

TEST_F(SabctlTest, ASubmissionOfASweepThatIsCutOffSaysHowToGoOn) {
  int calls = 0;
  fake_.create_job = [&](const v1::CreateJobRequest&, v1::CreateJobResponse* response) -> absl::Status {
    if (++calls == 2) return absl::ResourceExhaustedError("the disk is full");
    *response->mutable_job() = SomeJob(v1::JOB_STATE_QUEUED);
    return absl::OkStatus();
  };
  const Result result =
      Run({"submit", "-", "--sweep", "mine"}, absl::StrCat(kGoodFile, "sweep:\n  grid: {train.seed: [1, 2]}\n"));
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("1 of 2 jobs were submitted"), HasSubstr("--sweep mine")));
}

TEST_F(SabctlTest, HalvingBeyondTheStepsOrByAnUnknownFigureSubmitsNothing) {
  AcceptJobs();
  const std::string sweep = absl::StrCat(kGoodFile, "sweep:\n  grid: {train.seed: [1, 2]}\n  halving: ");
  const Result late = Run({"submit", "-"}, absl::StrCat(sweep, "{metric: accuracy, first: 1000000}\n"));
  EXPECT_EQ(late.code, 2);
  EXPECT_THAT(late.err, HasSubstr("sweep.halving.first: must be below train.steps"));
  const Result unknown = Run({"submit", "-"}, absl::StrCat(sweep, "{metric: bits, first: 1}\n"));
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("must be a figure of task copy, one of loss, accuracy"));
  EXPECT_EQ(Run({"submit", "-", "--sweep", "mine"}, kGoodFile).code, 2);
  EXPECT_THAT(created_, IsEmpty());
}

TEST_F(SabctlTest, ASweepWithABadPointSubmitsNothing) {
  AcceptJobs();
  const Result result = Run({"submit", "-"}, absl::StrCat(kGoodFile, "sweep:\n  grid: {train.steps: [5, -6]}\n"));
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("train.steps=-6"), HasSubstr("must be")));
  EXPECT_THAT(created_, IsEmpty());
  EXPECT_EQ(Run({"submit", "-"}, absl::StrCat(kGoodFile, "sweep:\n  grid: {train.stepz: [5]}\n")).code, 2);
}

TEST_F(SabctlTest, ExplainShowsWhoMustEndAndTheExpectedStart) {
  fake_.explain_job = [](const auto&, auto* response) {
    response->set_reason("QUEUED: waits for 1 cpu slot more");
    response->set_queue_position(2);
    response->add_must_end("jobs/x");
    response->set_expected_start_unknown("jobs/x has no time_limit");
    return absl::OkStatus();
  };
  EXPECT_EQ(Run({"explain", "abc"}).out,
            "jobs/abc: QUEUED: waits for 1 cpu slot more\nplace in the queue: 2\nwaits for slots of: jobs/x\n"
            "expected to start: not known, jobs/x has no time_limit\n");
}

TEST_F(SabctlTest, UpdateSendsWhatWasGivenAlone) {
  v1::UpdateJobRequest sent;
  fake_.update_job = [&](const v1::UpdateJobRequest& request, v1::UpdateJobResponse* response) {
    sent = request;
    *response->mutable_job() = SomeJob();
    return absl::OkStatus();
  };
  EXPECT_EQ(Run({"update", "abc", "--priority", "60", "--time-limit", "none"}).code, 0);
  EXPECT_EQ(sent.priority(), 60);
  EXPECT_TRUE(sent.has_time_limit());
  EXPECT_EQ(sent.time_limit(), "");
  EXPECT_FALSE(sent.has_max_restarts() || sent.has_preemptible());
}

TEST_F(SabctlTest, PauseAndResumeShowWhatBecameOfEachJob) {
  fake_.pause_job = [](const auto&, auto* response) {
    *response->mutable_job() = SomeJob(v1::JOB_STATE_PAUSED);
    return absl::OkStatus();
  };
  EXPECT_EQ(Run({"pause", "abc", "abc"}).out, "jobs/abc PAUSED\njobs/abc PAUSED\n");
}

TEST_F(SabctlTest, QueueListShowsUseBesideTheQuota) {
  fake_.list_queues = [](const auto&, auto* response) {
    v1::Queue* queue = response->add_queues();
    queue->set_name("research");
    v1::QueueSlots* slots = queue->add_slots();
    slots->set_device("cuda");
    slots->set_quota(8);
    slots->set_in_use(3);
    return absl::OkStatus();
  };
  EXPECT_THAT(Run({"queue", "list"}).out, AllOf(HasSubstr("research"), HasSubstr("3 of 8")));
}

TEST_F(SabctlTest, DrainTakesTheBareIdAndMayStopJobs) {
  v1::DrainWorkerRequest sent;
  fake_.drain_worker = [&](const v1::DrainWorkerRequest& request, v1::DrainWorkerResponse* response) {
    sent = request;
    response->mutable_worker()->set_name(request.name());
    return absl::OkStatus();
  };
  EXPECT_EQ(Run({"worker", "drain", "node-7", "--stop-jobs"}).out, "workers/node-7 gets no new work\n");
  EXPECT_EQ(sent.name(), "workers/node-7");
  EXPECT_TRUE(sent.stop_jobs());
}

TEST_F(SabctlTest, SubmitDryRunCreatesNothingAndShowsTheCost) {
  AcceptJobs();
  const Result result = Run({"submit", "-", "--dry-run"}, kGoodFile);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(created_.at(0).validate_only());
  EXPECT_THAT(result.out, AllOf(HasSubstr("hidden_size: 16"), HasSubstr("# parameters  1234")));
}

TEST_F(SabctlTest, ARefusedFileIsExitCode2WithEveryProblemAndItsLine) {
  const std::string path = WriteFile(
      "bad.yaml", "name: x\nmodel: {kind: sab, k_top: 0}\ntask:\n  kind: copy\n  length: 0\ntrain:\n  steps: -5\n");
  const Result result = Run({"submit", path});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr(path + ":2: model.k_top: "));
  EXPECT_THAT(result.err, HasSubstr(path + ":5: task.length: "));
  EXPECT_THAT(result.err, HasSubstr(path + ":7: train.steps: "));
  EXPECT_THAT(result.err, HasSubstr("nothing was submitted"));
  EXPECT_THAT(result.out, IsEmpty());
}

TEST_F(SabctlTest, UnknownKeysAreRefusedWithTheirLines) {
  const std::string path =
      WriteFile("bad.yaml", "name: x\ntask: {kind: copy, length: 10, lenght: 5}\ntrain: {steps: 5}\nextra: 1\n");
  const Result result = Run({"submit", path});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr(path + ":2: task.lenght: "));
  EXPECT_THAT(result.err, HasSubstr(path + ":4: extra: "));
}

TEST_F(SabctlTest, ProblemsOfFormAndOfRangeAreShownTogetherEachOnce) {
  const std::string path = WriteFile("bad.yaml",
                                     "name: x\ntask: {kind: copy, length: 0}\nmodel: {k_topp: 3}\n"
                                     "train:\n  steps: many\n  batch_size: -1\n");
  const Result result = Run({"submit", path});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr(path + ":2: task.length: "));
  EXPECT_THAT(result.err, HasSubstr(path + ":3: model.k_topp: "));
  EXPECT_THAT(result.err, HasSubstr(path + ":5: train.steps: "));
  EXPECT_THAT(result.err, HasSubstr(path + ":6: train.batch_size: "));
  EXPECT_THAT(result.err, HasSubstr("4 problems;"));
}

TEST_F(SabctlTest, AnUnknownKindHidesWhatDependsOnIt) {
  const Result result =
      Run({"submit", "-"},
          "name: x\nmodel: {kind: atention, normaliser: none}\ntask: {kind: copy, length: 5}\ntrain: {steps: 1}\n");
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("standard input:2: model.kind: "), Not(HasSubstr("normaliser"))));
}

TEST_F(SabctlTest, WhatTheCoordinatorRefusesIsShownWithTheFilesLines) {
  fake_.create_job = [](const auto&, auto*) {
    return InvalidFields({{"task.length", "is too long for this cluster"}});
  };
  const std::string path = WriteFile("job.yaml", kGoodFile);
  const Result result = Run({"submit", path});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr(path + ":5: task.length: is too long for this cluster"));
}

TEST_F(SabctlTest, AFileThatCannotBeReadIsExitCode2) {
  const Result result = Run({"submit", dir_.path() + "/none.yaml"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("none.yaml"));
}

TEST_F(SabctlTest, ABadOverrideIsExitCode2AndNamesIt) {
  const Result result = Run({"submit", "-", "--set", "train.stepz=5"}, kGoodFile);
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("train.stepz"));
}

TEST_F(SabctlTest, SubmitAndWatchEndsWithTheJobsExitCode) {
  AcceptJobs();
  WatchEndsWith(v1::JOB_STATE_FAILED);
  EXPECT_EQ(Run({"submit", "-", "--watch"}, kGoodFile).code, 1);
}

TEST_F(SabctlTest, WatchEndsWithTheCodeOfTheFinalState) {
  for (const auto& [state, code] : std::map<v1::JobState, int>{
           {v1::JOB_STATE_SUCCEEDED, 0}, {v1::JOB_STATE_FAILED, 1}, {v1::JOB_STATE_CANCELLED, 3}}) {
    WatchEndsWith(state);
    EXPECT_EQ(Run({"watch", "jobs/abc"}).code, code);
    EXPECT_EQ(Run({"wait", "abc"}).code, code);
  }
}

TEST_F(SabctlTest, WatchPrintsEvaluationsAndTheEndInPlainLines) {
  WatchEndsWith(v1::JOB_STATE_SUCCEEDED);
  const Result result = Run({"watch", "abc"});
  EXPECT_THAT(result.out, HasSubstr("step 40 evaluation  accuracy 0.5\n"));
  EXPECT_THAT(result.out, HasSubstr("jobs/abc SUCCEEDED: 42 of 100 steps\n"));
  EXPECT_THAT(result.out, Not(HasSubstr("\r")));
}

TEST_F(SabctlTest, QuietWatchPrintsNothing) {
  WatchEndsWith(v1::JOB_STATE_SUCCEEDED);
  const Result result = Run({"watch", "abc", "--quiet"});
  EXPECT_EQ(result.out + result.err, "");
}

TEST_F(SabctlTest, WaitThatTimesOutIsExitCode4AndSaysHowFarItGot) {
  fake_.watch_job = [](const v1::WatchJobRequest&, const auto& write) {
    v1::WatchJobResponse response;
    *response.mutable_job() = SomeJob();
    write(response);
    return absl::UnavailableError("again");
  };
  const Result result = Run({"wait", "abc", "--timeout", "200ms"});
  EXPECT_EQ(result.code, 4);
  EXPECT_THAT(result.err, HasSubstr("RUNNING after 200ms (step 42 of 100)"));
}

TEST_F(SabctlTest, NoCoordinatorIsExitCode5ForEveryCommand) {
  const std::string address = fake_.address();
  fake_.Stop();
  const std::string file = WriteFile("job.yaml", kGoodFile);
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"submit", file},
                                             {"list"},
                                             {"get", "abc"},
                                             {"watch", "abc"},
                                             {"wait", "abc"},
                                             {"cancel", "abc"},
                                             {"delete", "abc"},
                                             {"logs", "abc"},
                                             {"metrics", "abc"},
                                             {"checkpoint", "list", "abc"},
                                             {"worker", "list"},
                                             {"explain", "abc"},
                                             {"pause", "abc"},
                                             {"resume", "abc"},
                                             {"update", "abc", "--priority", "60"},
                                             {"queue", "list"},
                                             {"submit", "--from", "abc"},
                                             {"update", "abc", "--set", "train.steps=5"},
                                             {"evaluate", "abc@20", "--lengths", "5,10"},
                                             {"predict", "abc", "--input", "/in", "--output", "/out"},
                                             {"sample", "abc", "--prompt", "a"},
                                             {"worker", "drain", "w"},
                                             {"worker", "undrain", "w"},
                                             {"checkpoint", "download", "abc", "--to", dir_.path() + "/out"}}) {
    std::vector<std::string> arguments = command;
    arguments.insert(arguments.end(), {"--connect-timeout", "50ms"});
    const Result result = Run(arguments);
    EXPECT_EQ(result.code, 5) << command[0] << result.err;
    EXPECT_THAT(result.err, StartsWith("sabctl: no coordinator answers at " + address)) << command[0];
  }
}

TEST_F(SabctlTest, TheAddressComesFromTheEnvironmentToo) {
  fake_.list_jobs = [](const auto&, auto* response) {
    *response->add_jobs() = SomeJob();
    return absl::OkStatus();
  };
  EXPECT_EQ(Run({"list", "-o", "name"}, "", {{"SAB_ADDRESS", fake_.address()}}).out, "jobs/abc\n");
}

TEST_F(SabctlTest, WrongUsageIsExitCode2) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"fly"},
                                             {"get"},
                                             {"get", "abc", "-o", "xml"},
                                             {"wait", "abc", "--timeout", "soon"},
                                             {"list", "--page-size", "0"},
                                             {"get", "Not An Id"},
                                             {"checkpoint"},
                                             {"checkpoint", "download", "abc"},
                                             {"list", "--label", "x"},
                                             {"update", "abc"},
                                             {"submit"},
                                             {"submit", "--with-optimizer"},
                                             {"evaluate"},
                                             {"evaluate", "abc", "--lengths", "x"},
                                             {"evaluate", "abc@x"},
                                             {"predict", "abc", "--input", "/in"},
                                             {"sample", "abc"},
                                             {"queue"},
                                             {"worker", "drain", "Not An Id"},
                                             {"up", "--workers", "0"}}) {
    const Result result = Run(arguments);
    EXPECT_EQ(result.code, 2) << absl::StrCat(arguments.size()) << result.err;
    EXPECT_THAT(result.err, StartsWith("sabctl: "));
  }
}

TEST_F(SabctlTest, HelpOfEveryCommandHasExamples) {
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{{},
                                                                                       {"submit"},
                                                                                       {"list"},
                                                                                       {"get"},
                                                                                       {"watch"},
                                                                                       {"wait"},
                                                                                       {"cancel"},
                                                                                       {"delete"},
                                                                                       {"logs"},
                                                                                       {"metrics"},
                                                                                       {"checkpoint"},
                                                                                       {"checkpoint", "list"},
                                                                                       {"checkpoint", "download"},
                                                                                       {"checkpoint", "verify"},
                                                                                       {"worker"},
                                                                                       {"worker", "list"},
                                                                                       {"explain"},
                                                                                       {"pause"},
                                                                                       {"resume"},
                                                                                       {"update"},
                                                                                       {"evaluate"},
                                                                                       {"predict"},
                                                                                       {"sample"},
                                                                                       {"queue"},
                                                                                       {"queue", "list"},
                                                                                       {"worker", "drain"},
                                                                                       {"worker", "undrain"},
                                                                                       {"up"},
                                                                                       {"completion"},
                                                                                       {"version"}}) {
    std::vector<std::string> arguments = command;
    arguments.push_back("--help");
    const Result result = Run(arguments);
    EXPECT_EQ(result.code, 0);
    EXPECT_THAT(result.out, HasSubstr("Examples:\n  ")) << (command.empty() ? "" : command.back());
  }
}

TEST_F(SabctlTest, ListAsksForStateAndLabelsAndWalksThroughAllPages) {
  std::vector<std::string> filters, tokens;
  fake_.list_jobs = [&](const v1::ListJobsRequest& request, v1::ListJobsResponse* response) {
    filters.push_back(request.filter());
    tokens.push_back(request.page_token());
    *response->add_jobs() = SomeJob();
    if (tokens.size() == 1) response->set_next_page_token("two");
    return absl::OkStatus();
  };
  const Result result = Run({"list", "--state", "running", "--label", "team=x", "--all", "-o", "name"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "jobs/abc\njobs/abc\n");
  EXPECT_THAT(tokens, ElementsAre("", "two"));
  EXPECT_EQ(filters[0], "state = RUNNING AND labels.team = x");
}

TEST_F(SabctlTest, ListSaysThatThereAreMorePages) {
  fake_.list_jobs = [](const auto&, auto* response) {
    *response->add_jobs() = SomeJob();
    response->set_next_page_token("two");
    return absl::OkStatus();
  };
  const Result result = Run({"list"});
  EXPECT_THAT(result.out, AllOf(HasSubstr("JOB"), HasSubstr("jobs/abc"), HasSubstr("42/100")));
  EXPECT_THAT(result.err, HasSubstr("--all"));
}

TEST_F(SabctlTest, GetInYamlCanBeSubmittedAgain) {
  AcceptJobs();
  ASSERT_EQ(Run({"submit", "-"}, kGoodFile).code, 0);
  fake_.get_job = [&](const auto&, auto* response) {
    *response->mutable_job() = SomeJob(v1::JOB_STATE_SUCCEEDED);
    *response->mutable_job()->mutable_spec() = created_.at(0).spec();
    return absl::OkStatus();
  };
  const Result result = Run({"get", "abc", "-o", "yaml"});
  ASSERT_EQ(Run({"submit", "-"}, result.out).code, 0) << result.out;
  EXPECT_EQ(created_.at(1).spec().SerializeAsString(), created_.at(0).spec().SerializeAsString());
}

TEST_F(SabctlTest, AnUnknownJobIsExitCode1WithTheServicesWords) {
  fake_.get_job = [](const auto&, auto*) {
    return absl::NotFoundError("jobs/abc does not exist; `sabctl list` shows what does");
  };
  const Result result = Run({"get", "abc"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.err, "sabctl: jobs/abc does not exist; `sabctl list` shows what does\n");
}

TEST_F(SabctlTest, MetricsInJsonlAreOneObjectALine) {
  fake_.list_metrics = [](const v1::ListMetricsRequest& request, v1::ListMetricsResponse* response) {
    EXPECT_EQ(request.split(), "eval");
    v1::MetricPoint* point = response->add_points();
    point->set_step(200);
    point->set_split("eval");
    point->set_name("accuracy");
    point->set_length(10);
    point->set_value(request.page_token().empty() ? 0.5 : std::nan(""));
    if (request.page_token().empty()) response->set_next_page_token("two");
    return absl::OkStatus();
  };
  const Result result = Run({"metrics", "abc", "-o", "jsonl", "--split", "eval"});
  EXPECT_EQ(result.out,
            "{\"step\": 200, \"split\": \"eval\", \"name\": \"accuracy\", \"length\": 10, \"value\": 0.5}\n"
            "{\"step\": 200, \"split\": \"eval\", \"name\": \"accuracy\", \"length\": 10, \"value\": \"NaN\"}\n");
}

TEST_F(SabctlTest, FollowedMetricsAreFilteredToo) {
  WatchEndsWith(v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(Run({"metrics", "abc", "-o", "csv", "--follow", "--name", "accuracy"}).out,
              HasSubstr("40,eval,accuracy,0,0.5\n"));
  EXPECT_THAT(Run({"metrics", "abc", "-o", "csv", "--follow", "--name", "loss"}).out, Not(HasSubstr("accuracy")));
}

TEST_F(SabctlTest, PlotOfAFigureThatIsNotThereIsAnError) {
  fake_.list_metrics = [](const auto&, auto*) { return absl::OkStatus(); };
  const Result result = Run({"metrics", "abc", "--plot", "los"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("los"));
}

TEST_F(SabctlTest, LogsShowTheRankUnlessOneIsChosen) {
  fake_.tail_logs = [](const v1::TailLogsRequest& request, const auto& write) {
    v1::TailLogsResponse response;
    v1::LogLine* line = response.add_lines();
    line->set_attempt(1);
    line->set_rank(1);
    line->set_text(absl::StrCat("hello ", request.tail_lines()));
    write(response);
    return absl::OkStatus();
  };
  EXPECT_EQ(Run({"logs", "abc", "--tail", "5"}).out, "[1] hello 5\n");
  EXPECT_EQ(Run({"logs", "abc", "--rank", "1"}).out, "hello 0\n");
}

TEST_F(SabctlTest, ACheckpointOfAStepThatIsNotThereNamesThoseThatAre) {
  fake_.list_checkpoints = [](const auto&, auto* response) {
    response->add_checkpoints()->set_step(500);
    response->add_checkpoints()->set_step(400);
    return absl::OkStatus();
  };
  const Result result = Run({"checkpoint", "download", "abc", "--step", "450", "--to", dir_.path() + "/out"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("steps 500, 400"));
}

TEST_F(SabctlTest, VerifyOfSomethingThatIsNoCheckpointFails) {
  EXPECT_EQ(Run({"checkpoint", "verify", dir_.path()}).code, 1);
  EXPECT_EQ(Run({"checkpoint", "verify", dir_.path() + "/none"}).code, 1);
}

TEST_F(SabctlTest, CancelGoesOnAfterAJobThatCannotBeCancelled) {
  std::vector<std::string> asked;
  fake_.cancel_job = [&](const v1::CancelJobRequest& request, v1::CancelJobResponse* response) {
    asked.push_back(request.name());
    if (asked.size() == 1) return absl::FailedPreconditionError("jobs/a has SUCCEEDED");
    response->mutable_job()->set_name(request.name());
    response->mutable_job()->set_state(v1::JOB_STATE_CANCELLED);
    return absl::OkStatus();
  };
  const Result result = Run({"cancel", "a", "jobs/b"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(asked, ElementsAre("jobs/a", "jobs/b"));
  EXPECT_EQ(result.out, "jobs/b CANCELLED\n");
}

TEST_F(SabctlTest, JsonOfWorkersIsAListUnderTheirName) {
  fake_.list_workers = [](const auto&, auto* response) {
    v1::Worker* worker = response->add_workers();
    worker->set_name("workers/w1");
    worker->set_state(v1::WORKER_STATE_READY);
    worker->add_slots()->set_device("cpu");
    return absl::OkStatus();
  };
  EXPECT_THAT(Run({"worker", "list", "-o", "json"}).out,
              StartsWith("{\n  \"workers\": [\n    {\n      \"name\": \"workers/w1\","));
  EXPECT_THAT(Run({"worker", "list"}).out, AllOf(HasSubstr("READY"), HasSubstr("cpu")));
}

TEST_F(SabctlTest, VersionIsTheProjects) {
  EXPECT_EQ(Run({"version"}).out, "sabctl " SAB_VERSION "\n");
  EXPECT_EQ(Run({"--version"}).out, "sabctl " SAB_VERSION "\n");
}

TEST_F(SabctlTest, CompletionScriptsKnowEveryCommand) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = Run({"completion", shell}).out;
    for (const char* word : {"submit", "checkpoint", "download", "force", "worker", "explain"}) {
      EXPECT_THAT(script, HasSubstr(word)) << shell;
    }
  }
}

}  // namespace
}  // namespace sab::client
