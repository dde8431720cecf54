// What users get wrong, through the real programs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class InputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { cluster_ = new Cluster({.workers = 1}); }
  static void TearDownTestSuite() {
    delete cluster_;
    cluster_ = nullptr;
  }
  static std::string WriteFile(const std::string& name, const std::string& text) {
    const std::string path = cluster_->dir() + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  static size_t Jobs() { return cluster_->client().ListJobs({})->jobs_size(); }

  static Cluster* cluster_;
};
Cluster* InputTest::cluster_ = nullptr;

struct Malformed {
  const char* text;
  std::vector<const char*> expected;  // what standard error names, line and field
};

TEST_F(InputTest, MalformedJobFilesAreExitCode2WithEveryProblemNamed) {
  const std::string rest = "name: x\ntask: {kind: copy, length: 10}\ntrain: {steps: 5}\n";
  const std::vector<Malformed> files = {
      {"", {"empty"}},
      {"[1, 2]", {""}},
      {"name: x", {"task.kind", "train.steps"}},
      {"name: x\n  task: {", {":2"}},
      {"name: 'a b'\ntask: {kind: copy, length: 10}\ntrain: {steps: 5}", {":1: name"}},
      {"name: x\ntask: {kind: copy, length: 0}\ntrain: {steps: 0}", {":2: task.length", ":3: train.steps"}},
      {"name: x\ntask: {kind: fly, length: 10}\ntrain: {steps: 5}", {":2: task.kind"}},
      {"name: x\ntask: {kind: copy, length: ten}\ntrain: {steps: 5}", {":2: task.length"}},
      {"name: x\ntask: {kind: copy, length: 10, length: 11}\ntrain: {steps: 5}", {":2: task.length"}},
      {"name: x\ntask: {kind: copy, length: 10}\ntrain: {steps: 5, stepz: 6}\nextra: 1",
       {":3: train.stepz", ":4: extra"}},
      {"name: x\ntask: {kind: text}\ntrain: {steps: 5}", {"task.path"}},
      {"name: x\ntask: {kind: text, path: /no/such/file}\ntrain: {steps: 5}", {":2: task.path", "/no/such/file"}},
      {"name: x\nmodel: {kind: lstm, k_top: 5}\ntask: {kind: copy, length: 10}\ntrain: {steps: 5}",
       {":2: model.k_top"}},
      {"name: x\ntask: {kind: copy, length: 10}\ntrain: {steps: 5, learning_rate: -1}", {":3: train.learning_rate"}},
      {"name: x\ntask: {kind: copy, length: 10}\ntrain: {steps: 5, batch_size: 2}\nresources: {replicas: 3}",
       {"train.batch_size"}},
      {"name: x\ntask: {kind: copy, length: 10}\ntrain: {steps: 5}\neval: {stop_when: well}", {":4: eval.stop_when"}},
  };
  const size_t before = Jobs();
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string path = WriteFile(absl::StrCat("malformed-", i, ".yaml"), files[i].text);
    const Ran ran = cluster_->Sabctl({"submit", path});
    EXPECT_EQ(ran.code, 2) << files[i].text << "\n" << ran.err;
    EXPECT_THAT(ran.err, StartsWith("sabctl: ")) << files[i].text;
    for (const char* expected : files[i].expected) EXPECT_THAT(ran.err, HasSubstr(expected)) << files[i].text;
  }
  EXPECT_EQ(Jobs(), before);
}

TEST_F(InputTest, TheCoordinatorRefusesWhatAClientDidNotCheck) {
  v1::JobSpec spec;
  spec.set_name("x");
  spec.mutable_task()->set_kind(v1::TASK_KIND_COPY);
  spec.mutable_task()->set_length(-3);
  const absl::Status status = cluster_->client().CreateJob(spec).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  std::vector<std::string> fields;
  for (const FieldViolation& violation : ViolationsOf(status)) fields.push_back(violation.field);
  EXPECT_THAT(fields, ::testing::IsSupersetOf({"task.length", "train.steps"}));
}

TEST_F(InputTest, AnOversizedFileIsRefusedAndAnOversizedMessageDoesNoHarm) {
  const Ran ran =
      cluster_->Sabctl({"submit", WriteFile("large.yaml", "name: x\n# " + std::string(2 << 20, 'a') + "\n")});
  EXPECT_EQ(ran.code, 2);
  v1::JobSpec spec;
  spec.set_name("x");
  (*spec.mutable_labels())["a"] = std::string(5 << 20, 'a');
  EXPECT_EQ(cluster_->client().CreateJob(spec).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cluster_->Sabctl({"list"}).code, 0);
}

TEST_F(InputTest, AnUnknownJobIsExitCode1AndNamed) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"get", "nosuchjob"},
                                             {"watch", "nosuchjob"},
                                             {"wait", "nosuchjob"},
                                             {"cancel", "nosuchjob"},
                                             {"delete", "nosuchjob"},
                                             {"logs", "nosuchjob"},
                                             {"metrics", "nosuchjob"},
                                             {"explain", "nosuchjob"},
                                             {"checkpoint", "list", "nosuchjob"}}) {
    const Ran ran = cluster_->Sabctl(arguments);
    EXPECT_EQ(ran.code, 1) << arguments[0];
    EXPECT_THAT(ran.err, HasSubstr("jobs/nosuchjob")) << arguments[0];
  }
}

TEST_F(InputTest, AJobThatTheTrainerRefusesFailsWithItsWordsAndNoRestart) {
  const std::string path =
      WriteFile("broken.safetensors", "this is no safetensors file, although it is named like one");
  const JobId job = cluster_->Submit(absl::StrCat("name: broken\ntask: {kind: tensor, path: ", path,
                                                  "}\ntrain: {steps: 5}\n"
                                                  "resources: {device: cpu}\n"));
  EXPECT_EQ(cluster_->Sabctl({"watch", job.name()}).code, 1);
  const v1::Job final = *cluster_->client().GetJob(job);
  EXPECT_EQ(final.state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(final.failure(), HasSubstr("broken.safetensors"));
  EXPECT_EQ(final.attempt_count(), 1);
}

TEST_F(InputTest, ACancelledJobIsExitCode3AndItsSlotIsFreeAgain) {
  const JobId job = cluster_->Submit(CopyJob(1, 1'000'000, 0));
  cluster_->Await(job, [](const v1::Job& seen) { return seen.state() == v1::JOB_STATE_RUNNING; });
  EXPECT_EQ(cluster_->Sabctl({"wait", job.value(), "--timeout", "100ms"}).code, 4);
  EXPECT_EQ(cluster_->Sabctl({"delete", job.value()}).code, 1);
  EXPECT_EQ(cluster_->Sabctl({"cancel", job.value()}).code, 0);
  EXPECT_EQ(cluster_->Sabctl({"watch", job.value()}).code, 3);
  EXPECT_EQ(cluster_->Sabctl({"cancel", job.value()}).code, 0);
  const JobId next = cluster_->Submit(CopyJob(1, 2, 0));
  EXPECT_EQ(cluster_->Sabctl({"wait", next.value()}).code, 0);
  EXPECT_EQ(cluster_->Sabctl({"delete", job.value()}).code, 0);
  EXPECT_EQ(cluster_->Sabctl({"get", job.value()}).code, 1);
}

TEST_F(InputTest, AJobThatCannotStartSaysWhatItWaitsFor) {
  const JobId job = cluster_->Submit(CopyJob(3, 2, 0));
  const Ran ran = cluster_->Sabctl({"explain", job.value()});
  EXPECT_EQ(ran.code, 0);
  EXPECT_THAT(ran.out, HasSubstr("3"));
  EXPECT_EQ(cluster_->client().GetJob(job)->state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(cluster_->Sabctl({"cancel", job.value()}).code, 0);
}

TEST_F(InputTest, NobodyAtTheAddressIsExitCode5) {
  const Ran ran = RunProgram(BinDir() + "/sabctl", {"--address", "127.0.0.1:1", "--connect-timeout", "200ms", "list"},
                             cluster_->dir());
  EXPECT_EQ(ran.code, 5);
  EXPECT_THAT(ran.err, HasSubstr("127.0.0.1:1"));
}

}  // namespace
}  // namespace sab::e2e
