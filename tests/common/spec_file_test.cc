#include "common/spec/spec_file.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/spec/validate.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"

namespace sab::spec {
namespace {

using google::protobuf::util::MessageDifferencer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kWhole[] = R"(name: copy-100
model:  {kind: sab, hidden_size: 128, k_trunc: 5, k_att: 2, k_top: 5, score: mlp}
task:   {kind: copy, length: 100, one_hot: false}
labels: {team: x}
train:  {batch_size: 64, steps: 20000, optimizer: adam, learning_rate: 1.0e-3, clip_norm: 1.0, seed: 1}
eval:   {every: 200, lengths: [100, 200, 300, 400, 2000, 5000], sequences: 512, stop_when: "accuracy >= 0.999"}
checkpoint: {every: 500, keep_latest: 3, keep_best: 1}
resources:  {replicas: 2, device: auto}          # auto | cuda | cpu
queue: {priority: 50, max_restarts: 3}
)";

TEST(ParseSpecTest, TheWholeExampleIsReadAndValid) {
  const auto file = ParseSpec(kWhole);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->spec.name(), "copy-100");
  EXPECT_EQ(file->spec.model().kind(), v1::MODEL_KIND_SAB);
  EXPECT_EQ(file->spec.train().learning_rate(), 1e-3);
  EXPECT_EQ(file->spec.eval().lengths_size(), 6);
  EXPECT_EQ(file->spec.labels().at("team"), "x");
  EXPECT_TRUE(file->spec.task().has_one_hot());
  EXPECT_EQ(file->lines.at("train.steps"), 5);
  EXPECT_EQ(file->lines.at("eval.lengths[1]"), 6);
  EXPECT_TRUE(Validate(file->spec).empty());
}

TEST(ParseSpecTest, JsonIsReadToo) {
  const auto file =
      ParseSpec("{\"name\": \"x\",\n \"task\": {\"kind\": \"copy\",\n \"length\": 10}, \"train\": {\"steps\": 5}}");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->spec.task().length(), 10);
  EXPECT_EQ(file->lines.at("task.length"), 3);
}

TEST(ParseSpecTest, ASectionWithNothingBelowItIsEmpty) {
  const auto file = ParseSpec("name: x\nmodel:\nlabels:\ncurriculum:\n");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_FALSE(file->spec.has_curriculum());
}

TEST(ParseSpecTest, LabelsAreTextWhateverTheyLookLike) {
  const auto file = ParseSpec("labels: {a: 5, b: true, c: \"x y\"}");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->spec.labels().at("a"), "5");
  EXPECT_EQ(file->spec.labels().at("b"), "true");
}

struct Refused {
  const char* file;
  const char* field;   // of the first violation
  const char* reason;  // part of it, with its line
};

class RefusedFormTest : public ::testing::TestWithParam<Refused> {};

TEST_P(RefusedFormTest, NamesFieldLineAndReason) {
  const auto file = ParseSpec(GetParam().file);
  ASSERT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << file.status();
  const auto violations = ViolationsOf(file.status());
  ASSERT_FALSE(violations.empty());
  EXPECT_EQ(violations[0].field, GetParam().field);
  EXPECT_THAT(violations[0].reason, HasSubstr(GetParam().reason));
}

INSTANTIATE_TEST_SUITE_P(
    Forms, RefusedFormTest,
    ::testing::Values(
        Refused{"", "", "is empty"}, Refused{"# nothing\n", "", "is empty"},
        Refused{"just text", "", "line 1: must be a section"}, Refused{"[1, 2]", "", "line 1: must be a section"},
        Refused{"name: x\n  bad: [", "", "cannot be read"}, Refused{"name: \"x\ntrain: {", "", "cannot be read"},
        Refused{"{\"name\": \"x\"", "", "cannot be read"}, Refused{"name: x\n\ttrain: 5", "", "cannot be read"},
        Refused{"name: x\n---\nname: y\n", "", "second document"}, Refused{"a: &x [1]\nb: *x\n", "", "line 1: anchors"},
        Refused{"name: x\nname: y\n", "name", "line 2: is given twice, first on line 1"},
        Refused{"train:\n  steps: 5\n  steps: 6\n", "train.steps", "line 3: is given twice, first on line 2"},
        Refused{"labels: {a: b, a: c}", "labels.a", "twice"}, Refused{"nam: x", "nam", "did you mean name?"},
        Refused{"model:\n  hidden: 5", "model.hidden", "line 2: unknown key; did you mean hidden_size?"},
        Refused{"model: {hiden_size: 5}", "model.hiden_size", "did you mean hidden_size?"},
        Refused{"train: {lr: 5}", "train.lr", "did you mean learning_rate?"},
        Refused{"train: {batch: 5}", "train.batch", "did you mean batch_size?"},
        Refused{"model: {steps: 5}", "model.steps", "did you mean train.steps?"},
        Refused{"steps: 5", "steps", "did you mean train.steps?"},
        Refused{"task: {qqqqqqqq: 5}", "task.qqqqqqqq", "task has kind, length"},
        Refused{"train: {steps: many}", "train.steps", "line 1: must be an integer, got \"many\""},
        Refused{"train: {steps: \"5\"}", "train.steps", "must be an integer"},
        Refused{"train: {steps: 5.5}", "train.steps", "integer"},
        Refused{"train: {steps: 1e4}", "train.steps", "integer"},
        Refused{"train: {steps: 0x10}", "train.steps", "integer"},
        Refused{"train: {steps: [5]}", "train.steps", "got a list"},
        Refused{"train: {steps: {a: 5}}", "train.steps", "got a section"},
        Refused{"train: {steps: }", "train.steps", "got nothing"},
        Refused{"train: {steps: true}", "train.steps", "integer"},
        Refused{"train: {steps: 99999999999999999999}", "train.steps", "too large"},
        Refused{"train: {learning_rate: fast}", "train.learning_rate", "must be a finite number, got \"fast\""},
        Refused{"train: {learning_rate: .nan}", "train.learning_rate", "finite"},
        Refused{"train: {learning_rate: inf}", "train.learning_rate", "finite"},
        Refused{"train: {learning_rate: 1e999}", "train.learning_rate", "finite"},
        Refused{"train: {learning_rate: 0x1p3}", "train.learning_rate", "finite"},
        Refused{"task: {one_hot: yes}", "task.one_hot", "must be true or false, got \"yes\""},
        Refused{"task: {one_hot: 1}", "task.one_hot", "true or false"},
        Refused{"task: {one_hot: \"true\"}", "task.one_hot", "true or false"},
        Refused{"model: {kind: lstn}", "model.kind",
                "must be one of sab, lstm, attention, got \"lstn\"; did you mean lstm?"},
        Refused{"model: {kind: MODEL_KIND_SAB}", "model.kind", "must be one of"},
        Refused{"model: {kind: unspecified}", "model.kind", "one of"},
        Refused{"model: {kind: [sab]}", "model.kind", "one of"}, Refused{"model: 5", "model", "must be a section"},
        Refused{"model: [sab]", "model", "must be a section"},
        Refused{"eval: {lengths: 5}", "eval.lengths", "must be a list"},
        Refused{"eval:\n  lengths:\n  - 5\n  - x", "eval.lengths[1]", "line 4: must be an integer"},
        Refused{"eval: {lengths: [[5]]}", "eval.lengths[0]", "integer"},
        Refused{"name: [x]", "name", "must be text, got a list"}, Refused{"name: {a: b}", "name", "must be text"},
        Refused{"labels: [a]", "labels", "must be a section"}, Refused{"labels: {a: [b]}", "labels.a", "must be text"},
        Refused{"labels: {a: }", "labels.a", "got nothing"}, Refused{"? [a]\n: b", "", "keys must be words"},
        Refused{"name: \"\xff\"", "", "line 1: holds bytes that are not UTF-8"},
        Refused{"name: x\nlabels: {a: \x01}", "", "line 2: holds bytes"},
        Refused{"a: [[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]", "", "nested deeper"},
        Refused{"model: {memory: {capacity: x}}", "model.memory.capacity", "integer"},
        Refused{"model: {memory: {size: 5}}", "model.memory.size", "unknown key"},
        Refused{"train: {schedule: cosine}", "train.schedule", "must be a section"}));

TEST(ParseSpecTest, AllViolationsAreListedAtOnceWithTheirLines) {
  const auto file = ParseSpec("nam: x\nmodel:\n  hidden: 5\n  kind: foo\ntrain: {steps: many}\n");
  const auto violations = ViolationsOf(file.status());
  ASSERT_GE(violations.size(), 4);
  EXPECT_EQ(violations[2].field, "model.kind");
  EXPECT_THAT(violations[2].reason, HasSubstr("line 4"));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("line 5: train.steps: must be an integer, got \"many\""));
}

TEST(ParseSpecTest, WrongValuesAreListedBesideWrongFormButNotWhatFollowsFromIt) {
  const auto file = ParseSpec(
      "name: x\n"
      "model: {kind: lstm, k_att: 3, hiden_size: 4}\n"
      "task: {kind: cpy, length: 0}\n"
      "train: {steps: many,\n"
      "        batch_size: 0}\n");
  std::vector<std::string> found;
  for (const FieldViolation& violation : ViolationsOf(file.status())) {
    found.push_back(violation.field + "@" + violation.reason.substr(0, violation.reason.find(':')));
  }
  EXPECT_THAT(found, testing::UnorderedElementsAre("model.hiden_size@line 2", "task.kind@line 3", "train.steps@line 4",
                                                   "model.k_att@line 2", "train.batch_size@line 5"));
}

TEST(ParseSpecTest, AFileAboveOneMebibyteIsRefused) {
  EXPECT_THAT(std::string(ParseSpec("name: " + std::string(1 << 20, 'x')).status().message()),
              HasSubstr("larger than 1 MiB"));
}

TEST(ParseSpecTest, DeepNestingIsRefusedWithoutExhaustingTheStack) {
  EXPECT_FALSE(ParseSpec(std::string(500'000, '[')).ok());
  EXPECT_FALSE(ParseSpec(std::string(500'000, '{')).ok());
}

TEST(ParseSpecTest, ManyViolationsAreBounded) {
  std::string file = "eval:\n  lengths:\n";
  for (int i = 0; i < 5'000; ++i) file += "  - x\n";
  EXPECT_EQ(ViolationsOf(ParseSpec(file).status()).size(), 100);
}

TEST(ParseSpecTest, NoTruncationOfAFileCrashesIt) {
  const std::string whole = kWhole;
  for (size_t size = 0; size < whole.size(); ++size) (void)ParseSpec(whole.substr(0, size));
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
    (void)ParseSpec(damaged);
  }
}

TEST(FormatYamlTest, WhatIsWrittenReadsBackToTheSame) {
  auto file = ParseSpec(kWhole);
  ASSERT_TRUE(file.ok());
  v1::JobSpec spec = file->spec;
  for (int pass = 0; pass < 2; ++pass) {
    const auto again = ParseSpec(FormatYaml(spec));
    ASSERT_TRUE(again.ok()) << again.status() << FormatYaml(spec);
    EXPECT_TRUE(MessageDifferencer::Equals(again->spec, spec)) << FormatYaml(spec);
    ResolveDefaults(&spec);
  }
}

TEST(FormatYamlTest, AwkwardTextAndNumbersSurvive) {
  v1::JobSpec spec;
  spec.set_name("null");
  for (const char* text : {"", "true", "5", "a: b", "# no", "- x", "'q\"", "ä\n b", "*x", "~", "{", " lead"}) {
    (*spec.mutable_labels())[absl::StrCat("k", spec.labels_size())] = text;
  }
  spec.mutable_train()->set_learning_rate(0.1 + 0.2);
  spec.mutable_train()->set_clip_norm(1e-300);
  spec.mutable_train()->set_seed(int64_t{1} << 53);
  spec.mutable_curriculum();
  const auto again = ParseSpec(FormatYaml(spec));
  ASSERT_TRUE(again.ok()) << again.status() << FormatYaml(spec);
  EXPECT_TRUE(MessageDifferencer::Equals(again->spec, spec) ||
              (again->spec.labels().size() == spec.labels().size() && again->spec.train().learning_rate() == 0.1 + 0.2))
      << FormatYaml(spec);
  for (const auto& [key, text] : spec.labels()) EXPECT_EQ(again->spec.labels().at(key), text);
}

TEST(OverrideTest, SetsFieldsOfEveryType) {
  v1::JobSpec spec;
  for (const char* assignment :
       {"name=x", "train.steps=500", "train.learning_rate=1e-3", "task.one_hot=true", "model.kind=lstm",
        "eval.lengths=[20, 40]", "labels.team=x", "labels.a.b=5", "eval.stop_when=accuracy >= 0.9",
        "model.memory.capacity=9", "task.path=/a/b: c", "train.schedule={kind: cosine}"}) {
    EXPECT_TRUE(ApplyOverride(assignment, &spec).ok()) << assignment << ApplyOverride(assignment, &spec);
  }
  EXPECT_EQ(spec.train().steps(), 500);
  EXPECT_EQ(spec.model().kind(), v1::MODEL_KIND_LSTM);
  EXPECT_THAT(spec.eval().lengths(), ElementsAre(20, 40));
  EXPECT_EQ(spec.labels().at("a.b"), "5");
  EXPECT_EQ(spec.eval().stop_when(), "accuracy >= 0.9");
  EXPECT_EQ(spec.task().path(), "/a/b: c");
  EXPECT_EQ(spec.train().schedule().kind(), v1::SCHEDULE_KIND_COSINE);
}

TEST(ParseSpecTest, ReplicasMayBeANumberOrARange) {
  const auto range = ParseSpec("name: x\nresources:\n  replicas: {min: 1, max: 4}\n");
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_EQ(range->spec.resources().min_replicas(), 1);
  EXPECT_EQ(range->spec.resources().replicas(), 4);
  EXPECT_EQ(range->lines.at("resources.min_replicas"), 3);
  const auto number = ParseSpec("resources: {replicas: 2}");
  EXPECT_EQ(number->spec.resources().replicas(), 2);
  EXPECT_FALSE(number->spec.resources().has_min_replicas());
  for (const char* wrong : {"{min: 1}", "{max: 4}", "{min: 1, max: 4, step: 2}", "{min: a, max: 4}", "[1, 4]"}) {
    EXPECT_FALSE(ParseSpec(absl::StrCat("resources: {replicas: ", wrong, "}")).ok()) << wrong;
  }
  v1::JobSpec spec = range->spec;
  ASSERT_TRUE(ApplyOverride("resources.replicas=2", &spec).ok());
  EXPECT_EQ(spec.resources().replicas(), 2);
  EXPECT_FALSE(spec.resources().has_min_replicas());
}

TEST(OverrideTest, AListIsReplacedAndNotExtended) {
  v1::JobSpec spec;
  spec.mutable_eval()->add_lengths(7);
  ASSERT_TRUE(ApplyOverride("eval.lengths=[20]", &spec).ok());
  EXPECT_THAT(spec.eval().lengths(), ElementsAre(20));
}

TEST(OverrideTest, ARefusedOneNamesItselfAndChangesNothing) {
  v1::JobSpec spec;
  spec.mutable_train()->set_steps(5);
  for (const char* assignment : {"train.steps=many", "train.stepz=5", "train=5", "steps", "=5", "train.steps.x=5",
                                 "train.steps=[", "model.kind=foo", "eval.lengths=5", "train.steps="}) {
    const absl::Status status = ApplyOverride(assignment, &spec);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << assignment;
    EXPECT_THAT(std::string(status.message()), HasSubstr(assignment));
  }
  EXPECT_EQ(spec.train().steps(), 5);
  EXPECT_THAT(std::string(ApplyOverride("train.stepz=5", &spec).message()), HasSubstr("did you mean train.steps?"));
}

}  // namespace
}  // namespace sab::spec
