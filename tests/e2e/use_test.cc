// What users do with a trained model and a running job: start from it, evaluate it, predict and write with it; change
// it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/safetensors.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

using ::testing::HasSubstr;

v1::Checkpoint LastOf(Cluster& cluster, const JobId& job) {
  const v1::Job final = cluster.AwaitFinal(job);
  EXPECT_EQ(final.state(), v1::JOB_STATE_SUCCEEDED) << final.failure() << cluster.Logs();
  return cluster.AwaitCheckpoints(job, 1).front();
}

JobId SubmitFork(Cluster& cluster, const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {"submit", "-o", "name"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const Ran ran = cluster.Sabctl(all);
  EXPECT_EQ(ran.code, 0) << ran.err;
  const auto id = ParseJobName(ran.out.substr(0, ran.out.find('\n')));
  EXPECT_TRUE(id.ok()) << ran.out;
  return id.ok() ? *id : JobId();
}

TEST(UseTest, AForkWithTheOptimiserEndsWithTheBitsOfTheJobThatItGoesOnFor) {
  Cluster cluster;
  const std::string whole = DigestOf(LastOf(cluster, cluster.Submit(CopyJob(1, 120, 0))), kModelFile);
  const JobId half = cluster.Submit(CopyJob(1, 60, 0));
  LastOf(cluster, half);
  const JobId fork = SubmitFork(cluster, {"--from", half.name(), "--with-optimizer", "--set", "train.steps=120"});
  const v1::Checkpoint end = LastOf(cluster, fork);
  EXPECT_EQ(end.step(), 120);
  EXPECT_EQ(DigestOf(end, kModelFile), whole);
  EXPECT_EQ(cluster.client().GetJob(fork)->attempts(0).start_step(), 60);
}

// The workers have no folder in common with the coordinator: parameters come over the network.
TEST(UseTest, AForkWithoutTheOptimiserBeginsAtStepZeroWithTheParameters) {
  Cluster cluster({.shared_checkpoints = false});
  const JobId source = cluster.Submit(CopyJob(1, 30, 10));
  LastOf(cluster, source);
  // No update in one step of a learning rate near nothing: what comes out is what went in.
  const JobId fork = SubmitFork(cluster, {"--from", absl::StrCat(source.value(), "@20"), "--set", "train.steps=1",
                                          "--set", "train.learning_rate=1e-30"});
  const v1::Checkpoint end = LastOf(cluster, fork);
  EXPECT_EQ(end.step(), 1);
  std::string expected;
  const auto checkpoints = cluster.client().ListCheckpoints(source);
  ASSERT_TRUE(checkpoints.ok());
  for (const v1::Checkpoint& checkpoint : *checkpoints) {
    if (checkpoint.step() == 20) expected = DigestOf(checkpoint, kModelFile);
  }
  EXPECT_EQ(DigestOf(end, kModelFile), expected);
  EXPECT_THAT(cluster.Sabctl({"get", fork.name(), "-o", "yaml"}).out, HasSubstr("init_from:"));
  const Ran refused = cluster.Sabctl({"submit", "--from", source.name(), "--set", "model.hidden_size=16"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("model.hidden_size 16 where that job had 32"));
}

// The figures of a training with one rank, by name and length.
std::map<std::string, double> EvalFigures(Cluster& cluster, const JobId& job, int64_t step) {
  v1::ListMetricsRequest request;
  request.set_job(job.name());
  request.set_split("eval");
  std::map<std::string, double> figures;
  const auto listed = cluster.client().ListMetrics(request);
  EXPECT_TRUE(listed.ok()) << listed.status();
  for (const v1::MetricPoint& point : listed->points()) {
    if (point.step() == step) figures[absl::StrCat(point.name(), "@", point.length())] = point.value();
  }
  return figures;
}

TEST(UseTest, EvaluateGivesTheFiguresOfTheTrainingBitForBitAndThoseOfOtherLengths) {
  Cluster cluster;
  const JobId job = cluster.Submit(CopyJob(1, 40, 20), {"--set", "eval.every=20", "--set", "eval.lengths=[10,15]"});
  LastOf(cluster, job);
  const Ran ran = cluster.Sabctl({"evaluate", absl::StrCat(job.value(), "@20"), "-o", "json"});
  ASSERT_EQ(ran.code, 0) << ran.err << cluster.Logs();
  const auto json = nlohmann::json::parse(ran.out);
  EXPECT_EQ(json["step"], 20);
  std::map<std::string, double> figures;
  for (const auto& figure : json["figures"]) {
    figures[absl::StrCat(figure["name"].get<std::string>(), "@", figure["length"].get<int64_t>())] = figure["value"];
  }
  EXPECT_EQ(figures, EvalFigures(cluster, job, 20));
  EXPECT_FALSE(figures.empty());

  const Ran table = cluster.Sabctl({"evaluate", job.name(), "--lengths", "7,30", "--sequences", "8"});
  ASSERT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("LENGTH"));
  EXPECT_THAT(table.out, HasSubstr("ACCURACY"));
  EXPECT_THAT(table.out, HasSubstr("\n30 "));
  // Its job is one like others, writes no checkpoint, and nothing starts from it.
  const v1::Job evaluation = cluster.client().ListJobs({})->jobs(0);
  EXPECT_EQ(evaluation.spec().action(), v1::ACTION_KIND_EVALUATE);
  EXPECT_EQ(evaluation.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(evaluation.step(), 16);
  EXPECT_TRUE(cluster.client().ListCheckpoints(*ParseJobName(evaluation.name()))->empty());
  EXPECT_EQ(cluster.Sabctl({"evaluate", job.name(), "--lengths", "0"}).code, 2);
  EXPECT_EQ(cluster.Sabctl({"evaluate", job.name(), "--data", "/no/such/file"}).code, 2);
}

TEST(UseTest, WhatAJobOfARangeOfReplicasHasTrainedIsEvaluatedOnOneSlot) {
  Cluster cluster({.workers = 2});
  const JobId job = cluster.Submit(CopyJob(1, 10, 0), {"--set", "resources.replicas={min: 2, max: 2}"});
  LastOf(cluster, job);
  const Ran ran = cluster.Sabctl({"evaluate", job.name(), "--sequences", "8"});
  EXPECT_EQ(ran.code, 0) << ran.err;
}

// Over the network, as in the fork's test: inputs lie on the worker, outputs come back to who asked.
TEST(UseTest, PredictWritesOutputsAndClassesOfEveryRow) {
  Cluster cluster({.workers = 1, .shared_checkpoints = false});
  const JobId job = cluster.Submit(CopyJob(1, 10, 0));
  LastOf(cluster, job);
  const std::vector<float> values(3 * 30 * 10, 0.5f);
  const TensorView inputs{
      "inputs",
      "F32",
      {3, 30, 10},
      absl::MakeConstSpan(reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(float))};
  const std::string input = cluster.dir() + "/inputs.safetensors", output = cluster.dir() + "/outputs.safetensors";
  std::ofstream(input, std::ios::binary) << *SafetensorsHeader({inputs}, {})
                                         << std::string_view(reinterpret_cast<const char*>(values.data()),
                                                             values.size() * sizeof(float));
  const Ran ran = cluster.Sabctl({"predict", job.name(), "--input", input, "--output", output});
  ASSERT_EQ(ran.code, 0) << ran.err << cluster.Logs();
  EXPECT_THAT(ran.out, HasSubstr("3 rows"));
  const auto file = SafetensorsFile::Open(output);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Find("outputs")->shape, (std::vector<int64_t>{3, 30, 10}));
  EXPECT_EQ((*file)->Find("classes")->shape, (std::vector<int64_t>{3, 30}));
  EXPECT_EQ((*file)->Find("classes")->dtype, "I64");
  const Ran wrong = cluster.Sabctl({"predict", job.name(), "--input", output, "--output", output});
  EXPECT_EQ(wrong.code, 1);
  EXPECT_THAT(wrong.err, HasSubstr("has no array 'inputs'"));
  // A result is no checkpoint.
  const std::string predicting = cluster.client().ListJobs({})->jobs(1).name();
  const Ran from = cluster.Sabctl({"submit", "--from", predicting});
  EXPECT_EQ(from.code, 2);
  EXPECT_THAT(from.err, HasSubstr("is a result, not a checkpoint"));
}

TEST(UseTest, SampleWritesTheSameTextForTheSameSeedAlsoWhenItsTrainerIsKilled) {
  Cluster cluster({.workers = 1});
  const std::string path = cluster.dir() + "/text";
  std::string text;
  for (int i = 0; i < 200; ++i) absl::StrAppend(&text, "the quick brown fox jumps over the lazy dog ", i % 7, "\n");
  std::ofstream(path, std::ios::binary) << text;
  const JobId job = cluster.Submit(
      absl::StrCat("name: text\nmodel: {kind: lstm, hidden_size: 16}\ntask: {kind: text, window: 20, path: ", path,
                   "}\ntrain: {batch_size: 4, steps: 20}\neval: {every: 0, sequences: 4}\nresources: {device: cpu}\n"));
  LastOf(cluster, job);
  const auto sample = [&](const char* seed) {
    return cluster.Sabctl({"sample", job.name(), "--prompt", "the ", "--length", "50", "--seed", seed, "--quiet"});
  };
  const Ran first = sample("3");
  ASSERT_EQ(first.code, 0) << first.err << cluster.Logs();
  EXPECT_EQ(first.out.size(), 51u) << first.out;
  EXPECT_EQ(sample("3").out, first.out);
  EXPECT_NE(sample("4").out, first.out);
  const Ran unknown = cluster.Sabctl({"sample", job.name(), "--prompt", "THE"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.err, HasSubstr("sample.prompt: byte 84 does not occur"));

  const auto start = [&] {
    const Ran ran = cluster.Sabctl({"sample", job.name(), "--prompt", "the ", "--length", "120000", "--detach"});
    return *ParseJobName(ran.out.substr(0, ran.out.find('\n')));
  };
  const auto result = [&](const JobId& sampling) { return DigestOf(LastOf(cluster, sampling), kSampleFile); };
  const std::string undisturbed = result(start());
  const JobId disturbed = start();
  cluster.Await(disturbed, [](const v1::Job& seen) { return seen.state() == v1::JOB_STATE_RUNNING; });
  ASSERT_EQ(kill(cluster.AwaitTrainers(disturbed, 1)[0], SIGKILL), 0);
  EXPECT_EQ(result(disturbed), undisturbed);
  EXPECT_EQ(cluster.client().GetJob(disturbed)->attempt_count(), 2);
}

// The change is made while two ranks train; then both are killed, so that the steps before and after it are trained
// again from a checkpoint before it, the one of a pause. The same settings by hand: a job that ends where the change
// was, and one that goes on.
TEST(UseTest, AnUpdateTakesEffectAfterOneStepOfAllRanksAndAReplayGivesTheSameBits) {
  const std::vector<std::string> settings = {
      "--set", "train.learning_rate=0.01", "--set", "model.k_top=3", "--set", "task.length=8"};
  Cluster cluster({.lease = "60s"});
  const JobId job = cluster.Submit(CopyJob(2, kEndless, 0));
  cluster.AwaitTraining(job, 1);
  const int64_t saved = cluster.Pause(job).step();
  EXPECT_EQ(cluster.Sabctl({"resume", job.value()}).code, 0);
  cluster.AwaitTraining(job, 2);
  std::vector<std::string> update = {"update", job.name()};
  update.insert(update.end(), settings.begin(), settings.end());
  const Ran ran = cluster.Sabctl(update);
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("train.learning_rate, model.k_top, task.length"));
  const v1::Job updated = cluster.Await(job, [](const v1::Job& seen) {
    return seen.state() == v1::JOB_STATE_RUNNING && seen.changes_size() == 1 && seen.changes(0).has_after_step() &&
           seen.step() > seen.changes(0).after_step();
  });
  const int64_t step = updated.changes(0).after_step();
  EXPECT_GT(step, saved);
  EXPECT_EQ(updated.attempts(2).recovery().cause(), "updated");
  EXPECT_EQ(updated.attempts(2).recovery().lost_steps(), 0);
  for (const pid_t trainer : cluster.AwaitTrainers(job, 2)) ASSERT_EQ(kill(trainer, SIGKILL), 0);
  const v1::Job replayed = cluster.Await(job, [&](const v1::Job& seen) {
    return seen.attempt_count() > 3 && seen.state() == v1::JOB_STATE_RUNNING &&
           seen.attempts().rbegin()->start_step() == saved && seen.step() > step + 50;
  });
  EXPECT_EQ(replayed.changes(0).after_step(), step);
  const v1::Checkpoint end = cluster.Pause(job);
  EXPECT_THAT(cluster.Sabctl({"get", job.name()}).out, HasSubstr("model.k_top: 5 -> 3"));

  const JobId before = cluster.Submit(CopyJob(2, static_cast<int>(step), 0));
  LastOf(cluster, before);
  std::vector<std::string> after = {"--from", before.name(), "--with-optimizer", "--set",
                                    absl::StrCat("train.steps=", end.step())};
  after.insert(after.end(), settings.begin(), settings.end());
  const v1::Checkpoint expected = LastOf(cluster, SubmitFork(cluster, after));
  EXPECT_EQ(DigestOf(end, kModelFile), DigestOf(expected, kModelFile));
  EXPECT_EQ(DigestOf(end, kOptimizerFile), DigestOf(expected, kOptimizerFile));
}

}  // namespace
}  // namespace sab::e2e
