#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/base/memory_sizes.h"
#include "common/checkpoint/checkpoint.h"
#include "common/spec/spec_file.h"
#include "common/spec/validate.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "tests/util/temp_dir.h"

namespace sab::spec {
namespace {

using google::protobuf::util::MessageDifferencer;
using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;

v1::JobSpec Minimal(const std::string& task = "{kind: copy, length: 100}") {
  auto file = ParseSpec(absl::StrCat("name: x\ntask: ", task, "\ntrain: {steps: 10}\n"));
  EXPECT_TRUE(file.ok()) << file.status();
  return file->spec;
}

// Tasks by name, minimal and valid.
std::string Task(const std::string& kind) {
  if (kind == "copy" || kind == "adding" || kind == "recall") return absl::StrCat("{kind: ", kind, ", length: 100}");
  return absl::StrCat("{kind: ", kind, ", path: /data/x}");
}

TEST(ValidateTest, MinimalSpecsOfEveryTaskAndModelAreValid) {
  for (const char* task : {"copy", "adding", "recall", "text", "image", "tensor"}) {
    for (const char* model : {"sab", "lstm", "attention"}) {
      v1::JobSpec spec = Minimal(Task(task));
      ASSERT_TRUE(ApplyOverride(absl::StrCat("model.kind=", model), &spec).ok());
      EXPECT_TRUE(Validate(spec).empty()) << task << model << Validate(spec)[0].reason;
    }
  }
}

TEST(ValidateTest, ResolvedSpecsStayValidAndResolveToThemselves) {
  for (const char* task : {"copy", "adding", "recall", "text", "image", "tensor"}) {
    for (const char* model : {"sab", "lstm", "attention"}) {
      v1::JobSpec spec = Minimal(Task(task));
      ASSERT_TRUE(ApplyOverride(absl::StrCat("model.kind=", model), &spec).ok());
      ResolveDefaults(&spec);
      EXPECT_TRUE(Validate(spec).empty()) << task << model << Validate(spec)[0].field << Validate(spec)[0].reason;
      v1::JobSpec again = spec;
      ResolveDefaults(&again);
      EXPECT_TRUE(MessageDifferencer::Equals(again, spec));
    }
  }
}

TEST(ValidateTest, HalvingRanksAccuracyUpwardsAndOthersDownwardsUnlessItSays) {
  for (const auto& [metric, mode] : {std::pair{"accuracy", v1::HALVING_MODE_MAX}, {"loss", v1::HALVING_MODE_MIN}}) {
    v1::JobSpec spec = Minimal();
    spec.mutable_queue()->set_group("x");
    spec.mutable_halving()->set_trials(4);
    spec.mutable_halving()->set_metric(metric);
    spec.mutable_halving()->add_rungs(5);
    EXPECT_TRUE(Validate(spec).empty());
    ResolveDefaults(&spec);
    EXPECT_EQ(spec.halving().mode(), mode);
    EXPECT_EQ(spec.halving().factor(), 3);
    spec.mutable_halving()->set_mode(v1::HALVING_MODE_MIN);
    ResolveDefaults(&spec);
    EXPECT_EQ(spec.halving().mode(), v1::HALVING_MODE_MIN);
  }
}

struct Refused {
  std::vector<std::string> overrides;  // on a minimal copy job
  const char* field;
  const char* reason;
};

class RefusedValueTest : public ::testing::TestWithParam<Refused> {};

TEST_P(RefusedValueTest, NamesFieldAndReasonResolvedOrNot) {
  v1::JobSpec spec = Minimal();
  for (const std::string& assignment : GetParam().overrides)
    ASSERT_TRUE(ApplyOverride(assignment, &spec).ok()) << assignment;
  const auto expected = Contains(AllOf(Field(&FieldViolation::field, GetParam().field),
                                       Field(&FieldViolation::reason, HasSubstr(GetParam().reason))));
  EXPECT_THAT(Validate(spec), expected);
  v1::JobSpec resolved = spec;
  ResolveDefaults(&resolved);
  EXPECT_THAT(Validate(resolved), expected);
}

INSTANTIATE_TEST_SUITE_P(
    Values, RefusedValueTest,
    ::testing::Values(
        Refused{{"name="}, "name", "must be given"}, Refused{{"name=a b"}, "name", "must be 1 to 63"},
        Refused{{"name=" + std::string(64, 'x')}, "name", "must be 1 to 63"},
        Refused{{"name=ä"}, "name", "must be 1 to 63"},
        Refused{{"model.hidden_size=0"}, "model.hidden_size", "must be at least 1, got 0"},
        Refused{{"model.hidden_size=16385"}, "model.hidden_size", "must be at most 16384"},
        Refused{{"model.kind=lstm", "model.k_att=2"},
                "model.k_att",
                "is a setting of model.kind sab, but model.kind is lstm; remove it"},
        Refused{{"model.kind=lstm", "model.score=mlp"}, "model.score", "model.kind is lstm"},
        Refused{{"model.kind=lstm", "model.memory.capacity=0"}, "model.memory", "model.kind is lstm"},
        Refused{{"model.kind=lstm", "model.init=paper"}, "model.init", "model.kind sab and model.kind attention"},
        Refused{{"model.kind=attention", "model.k_trunc=5"}, "model.k_trunc", "model.kind sab and model.kind lstm"},
        Refused{{"model.kind=attention", "model.tie_guard=0"}, "model.tie_guard", "model.kind is attention"},
        Refused{{"model.normaliser=none"}, "model.normaliser", "model.kind is sab"},
        Refused{{"model.k_trunc=-1"}, "model.k_trunc", "must be at least 0"},
        Refused{{"model.k_att=0"}, "model.k_att", "must be at least 1"},
        Refused{{"model.k_top=0"}, "model.k_top", "must be at least 1"},
        Refused{{"model.tie_guard=-0.1"}, "model.tie_guard", "at least 0"},
        Refused{{"model.init_std=0"}, "model.init_std", "above 0"},
        Refused{{"model.embedding_size=8"}, "model.embedding_size", "task.kind is copy"},
        Refused{{"model.memory.capacity=6"}, "model.memory.capacity", "at least k_top + 2 = 7, got 6"},
        Refused{{"model.memory.capacity=-1"}, "model.memory.capacity", "at least 0"},
        Refused{{"model.memory={capacity: 20, recent: 4}"}, "model.memory.recent", "policy: salient"},
        Refused{{"model.memory={capacity: 10, policy: salient}"}, "model.memory.recent", "capacity - 2 = 8, got 16"},
        Refused{{"task.kind=text"}, "task.path", "must be given for task text"},
        Refused{{"task.kind=text"}, "task.length", "task.kind is text"},
        Refused{{"task.length=0"}, "task.length", "must be at least 1, got 0"},
        Refused{{"task.kind=adding", "task.length=1"}, "task.length", "must be at least 2"},
        Refused{{"task.kind=adding", "task.one_hot=true"}, "task.one_hot", "is a setting of the task copy"},
        Refused{{"task.path=/x"}, "task.path", "task.kind is copy"},
        Refused{{"task={kind: text, path: x}"}, "task.path", "absolute path, got \"x\""},
        Refused{{"task={kind: text, path: /x, window: 0}"}, "task.window", "at least 1"},
        Refused{{"task={kind: tensor, path: /x, valid_path: /y}"}, "task.valid_path", "the task text"},
        Refused{{"task={kind: image, path: /x, permute_seed: -1}"}, "task.permute_seed", "at least 0"},
        Refused{{"task={kind: text, path: /x}", "eval.lengths=[5]"}, "eval.lengths", "task.kind is text"},
        Refused{{"labels.a b=x"}, "labels.a b", "its key must be"},
        Refused{{"labels.a=" + std::string(129, 'x')}, "labels.a", "at most 128"},
        Refused{{"train.batch_size=0"}, "train.batch_size", "at least 1"},
        Refused{{"train.batch_size=3", "resources.replicas=4"}, "train.batch_size", "resources.replicas = 4, got 3"},
        Refused{{"resources.replicas=65"}, "train.batch_size", "resources.replicas = 65, got 64"},
        Refused{{"halving={trials: 4, metric: loss, rungs: [5]}"}, "queue.group", "must be given with halving"},
        Refused{{"queue.group=x", "halving={trials: 1, metric: loss, rungs: [5]}"}, "halving.trials", "at least 2"},
        Refused{{"queue.group=x", "halving={trials: 4, metric: mse, rungs: [5]}"},
                "halving.metric",
                "one of loss, accuracy, ce10, got \"mse\""},
        Refused{{"queue.group=x", "halving={trials: 4, metric: loss, factor: 1, rungs: [5]}"},
                "halving.factor",
                "at least 2"},
        Refused{{"queue.group=x", "halving={trials: 4, metric: loss}"}, "halving.rungs", "must be 1 to 64 steps"},
        Refused{{"queue.group=x", "halving={trials: 4, metric: loss, rungs: [5, 5]}"},
                "halving.rungs[1]",
                "must be above 5, got 5"},
        Refused{{"queue.group=x", "halving={trials: 4, metric: loss, rungs: [0, 5]}"}, "halving.rungs[0]", "above 0"},
        Refused{{"queue.group=x", "halving={trials: 4, metric: loss, rungs: [5, 10]}"},
                "train.steps",
                "must be above the last of halving.rungs, 10, got 10"},
        Refused{{"queue.group=x", "halving={trials: 4, metric: loss, rungs: [5]}", "action=evaluate"},
                "halving",
                "is a setting of `action: train`"},
        Refused{{"train.shards=4"}, "train.shards", "is a setting of `deterministic: true`"},
        Refused{{"train.deterministic=true", "train.shards=6"}, "train.shards", "must be a power of two"},
        Refused{{"train.deterministic=true", "train.shards=0"}, "train.shards", "must be a power of two"},
        Refused{{"train.deterministic=true", "train.batch_size=30"},
                "train.batch_size",
                "must be divisible by train.shards = 4"},
        Refused{{"train.deterministic=true", "resources.replicas=3"},
                "resources.replicas",
                "must divide train.shards = 4, as train.deterministic is true, got 3"},
        Refused{{"train={deterministic: true, shards: 8, steps: 5}", "resources.replicas={min: 3, max: 8}"},
                "resources.min_replicas",
                "must divide train.shards = 8"},
        Refused{{"resources.replicas={min: 0, max: 2}"}, "resources.min_replicas", "must be at least 1"},
        Refused{{"resources.replicas={min: 3, max: 2}"}, "resources.min_replicas", "must be at most 2, got 3"},
        Refused{{"train={}"}, "train.steps", "must be given"}, Refused{{"train.steps=0"}, "train.steps", "at least 1"},
        Refused{{"train.learning_rate=0"}, "train.learning_rate", "above 0"},
        Refused{{"train.momentum=0.9"}, "train.momentum", "optimizer: sgd"},
        Refused{{"train.optimizer=sgd", "train.momentum=1"}, "train.momentum", "below 1"},
        Refused{{"train.weight_decay=-1"}, "train.weight_decay", "at least 0"},
        Refused{{"train.clip_norm=-1"}, "train.clip_norm", "at least 0"},
        Refused{{"train.seed=-1"}, "train.seed", "at least 0"},
        Refused{{"train.seed=9007199254740993"}, "train.seed", "at most"},
        Refused{{"train.precision=bf16", "resources.device=cpu"}, "train.precision", "need GPUs"},
        Refused{{"train.precision=tf32", "resources.device=cpu"}, "train.precision", "need GPUs"},
        Refused{{"train.schedule={kind: cosine, warmup_steps: 11}"},
                "train.schedule.warmup_steps",
                "train.steps = 10, got 11"},
        Refused{{"train.schedule={final_factor: 0.1}"}, "train.schedule.final_factor", "kind: linear"},
        Refused{{"train.schedule={kind: linear, final_factor: 2}"}, "train.schedule.final_factor", "from 0 to 1"},
        Refused{{"train.max_nonfinite_steps=0"}, "train.max_nonfinite_steps", "at least 1"},
        Refused{{"eval.every=-1"}, "eval.every", "at least 0"},
        Refused{{"eval.lengths=[100, 0]"}, "eval.lengths[1]", "at least 1"},
        Refused{{"eval.lengths=[100, 100]"}, "eval.lengths[1]", "listed twice"},
        Refused{{"eval.sequences=0"}, "eval.sequences", "at least 1"},
        Refused{{"eval.final_lengths=[0]"}, "eval.final_lengths[0]", "at least 1"},
        Refused{{"eval.lengths=[100]", "eval.final_lengths=[200, 100]"}, "eval.final_lengths[1]", "listed twice"},
        Refused{{"eval.final_sequences=0"}, "eval.final_sequences", "at least 1"},
        Refused{{"task={kind: text, path: /x}", "eval.final_lengths=[5]"}, "eval.final_lengths", "task.kind is text"},
        Refused{{"eval.stop_when=accuracy"}, "eval.stop_when", "METRIC OP NUMBER"},
        Refused{{"eval.stop_when=mse < 1"}, "eval.stop_when", "task copy reports loss, accuracy, ce10"},
        Refused{{"eval.path=/x"}, "eval.path", "task.kind is copy"},
        Refused{{"task={kind: image, path: /x}", "eval.labels_path=/x"},
                "eval.labels_path",
                "eval.path, which is not given"},
        Refused{{"checkpoint.every=-1"}, "checkpoint.every", "at least 0"},
        Refused{{"checkpoint.keep_latest=0"}, "checkpoint.keep_latest", "at least 1"},
        Refused{{"checkpoint.keep_best=-1"}, "checkpoint.keep_best", "at least 0"},
        Refused{{"resources.replicas=0"}, "resources.replicas", "at least 1"},
        Refused{{"resources.replicas=4097"}, "resources.replicas", "at most 4096"},
        Refused{{"queue.priority=101"}, "queue.priority", "at most 100"},
        Refused{{"queue.max_restarts=-1"}, "queue.max_restarts", "at least 0"},
        Refused{{"curriculum={}"}, "curriculum.lengths", "must be given"},
        Refused{
            {"curriculum={lengths: [50, 20, 100]}"}, "curriculum.lengths[1]", "above the one before it, 50, got 20"},
        Refused{{"curriculum={lengths: [20, 50], advance_when: accuracy > 1}"},
                "curriculum.lengths",
                "end with task.length = 100"},
        Refused{{"curriculum={lengths: [100]}"}, "curriculum.advance_when", "must be given"},
        Refused{
            {"curriculum={lengths: [100], advance_when: bits < 1}"}, "curriculum.advance_when", "task copy reports"},
        Refused{{"task={kind: text, path: /x}", "curriculum={lengths: [100]}"}, "curriculum", "task.kind is text"},
        Refused{{"init_from={optimizer: true}"}, "init_from.checkpoint", "must be given"},
        Refused{{"init_from.checkpoint=jobs/x"}, "init_from.checkpoint", "checkpoints"},
        Refused{{"action=evaluate"}, "init_from.checkpoint", "must be given for action evaluate"},
        Refused{{"action=predict", "init_from.checkpoint=jobs/x/checkpoints/000000000001-a1"},
                "predict",
                "must be given for action predict"},
        Refused{{"predict.input=/x"}, "predict", "is a setting of `action: predict`"},
        Refused{{"action=sample", "init_from.checkpoint=jobs/x/checkpoints/000000000001-a1", "sample.prompt=a"},
                "action",
                "sample is for task text"},
        Refused{{"action=evaluate", "init_from={checkpoint: jobs/x/checkpoints/000000000001-a1, optimizer: true}"},
                "init_from.optimizer",
                "is a setting of `action: train`"}));

TEST(ValidateTest, AMissingTaskIsOneViolation) {
  v1::JobSpec spec = Minimal();
  spec.clear_task();
  const auto violations = Validate(spec);
  ASSERT_EQ(violations.size(), 1);
  EXPECT_EQ(violations[0].field, "task.kind");
}

TEST(ValidateTest, ViolationsComeInTheOrderOfTheFile) {
  v1::JobSpec spec;
  const auto violations = Validate(spec);
  ASSERT_EQ(violations.size(), 3);
  EXPECT_EQ(violations[0].field, "name");
  EXPECT_EQ(violations[1].field, "task.kind");
  EXPECT_EQ(violations[2].field, "train.steps");
}

TEST(ValidateTest, NumbersOutsideAnEnumAndNonFiniteOnesAreRefused) {
  v1::JobSpec spec = Minimal();
  spec.mutable_model()->set_score(static_cast<v1::ScoreKind>(77));
  spec.mutable_train()->set_clip_norm(std::numeric_limits<double>::quiet_NaN());
  spec.mutable_train()->set_learning_rate(std::numeric_limits<double>::infinity());
  const auto violations = Validate(spec);
  ASSERT_EQ(violations.size(), 3);
  EXPECT_EQ(violations[0].field, "model.score");
  EXPECT_THAT(violations[0].reason, HasSubstr("must be one of mlp, separable, got number 77"));
  EXPECT_EQ(violations[1].field, "train.learning_rate");
}

TEST(ResolveDefaultsTest, FillsInWhatTheKindHasAndNothingElse) {
  v1::JobSpec spec = Minimal();
  spec.mutable_model()->set_kind(v1::MODEL_KIND_LSTM);
  ResolveDefaults(&spec);
  EXPECT_EQ(spec.model().k_trunc(), 0);
  EXPECT_TRUE(spec.model().has_k_trunc());
  EXPECT_FALSE(spec.model().has_k_att());
  EXPECT_EQ(spec.model().init(), v1::INIT_KIND_UNSPECIFIED);
  EXPECT_EQ(spec.model().engine(), v1::ENGINE_KIND_UNSPECIFIED);
  EXPECT_FALSE(spec.train().has_momentum());
  EXPECT_EQ(spec.train().batch_size(), 64);
  EXPECT_THAT(spec.eval().lengths(), testing::ElementsAre(100));
}

TEST(ResolveDefaultsTest, SabGetsTheStableSettings) {
  v1::JobSpec spec = Minimal();
  ResolveDefaults(&spec);
  EXPECT_EQ(spec.model().k_trunc(), 5);
  EXPECT_EQ(spec.model().k_att(), 2);
  EXPECT_EQ(spec.model().k_top(), 5);
  EXPECT_EQ(spec.model().dense(), v1::DENSE_KIND_SOFTMAX);
  EXPECT_EQ(spec.model().memory_state(), v1::MEMORY_STATE_KIND_PROVISIONAL);
  EXPECT_EQ(spec.model().init(), v1::INIT_KIND_SCALED);
  EXPECT_EQ(spec.model().tie_guard(), 0.01);
  EXPECT_FALSE(spec.model().has_embedding_size());
}

TEST(ResolveDefaultsTest, TextIsEmbedded) {
  for (const auto& [task, size] :
       {std::pair("{kind: text, path: /x}", 128), std::pair("{kind: tensor, path: /x}", 0)}) {
    v1::JobSpec spec = Minimal(task);
    ResolveDefaults(&spec);
    EXPECT_EQ(spec.model().embedding_size(), size) << task;
  }
}

TEST(ResolveDefaultsTest, WhatWasGivenStays) {
  v1::JobSpec spec = Minimal();
  spec.mutable_model()->set_tie_guard(0);
  spec.mutable_train()->set_seed(0);
  spec.mutable_model()->set_mental_updates(false);
  ResolveDefaults(&spec);
  EXPECT_EQ(spec.model().tie_guard(), 0);
  EXPECT_EQ(spec.train().seed(), 0);
  EXPECT_FALSE(spec.model().mental_updates());
}

TEST(QueueTest, EveryViolationIsListed) {
  v1::JobSpec spec = Minimal();
  spec.mutable_resources()->set_device(v1::DEVICE_KIND_CPU);
  spec.mutable_resources()->set_min_gpu_memory("40GiB");
  spec.mutable_queue()->set_time_limit("soon");
  spec.mutable_queue()->add_after("jobs/a");
  spec.mutable_queue()->add_after("jobs/a");
  spec.mutable_queue()->add_after("job b");
  std::vector<std::string> fields;
  for (const FieldViolation& violation : Validate(spec)) fields.push_back(violation.field);
  EXPECT_THAT(fields,
              testing::ElementsAre("resources.min_gpu_memory", "queue.time_limit", "queue.after[1]", "queue.after[2]"));
}

TEST(QueueTest, MemoryOfACpuSlotIsNotForGpus) {
  v1::JobSpec spec = Minimal();
  spec.mutable_resources()->set_memory("4GiB");
  EXPECT_TRUE(Validate(spec).empty());
  spec.mutable_resources()->set_device(v1::DEVICE_KIND_CUDA);
  ASSERT_EQ(Validate(spec).size(), 1);
  EXPECT_EQ(Validate(spec)[0].field, "resources.memory");
  spec.mutable_resources()->set_device(v1::DEVICE_KIND_CPU);
  spec.mutable_resources()->set_memory("much");
  ASSERT_EQ(Validate(spec).size(), 1);
  EXPECT_EQ(Validate(spec)[0].field, "resources.memory");
}

TEST(QueueTest, AfterFailureNeedsAJobToRunAfter) {
  v1::JobSpec spec = Minimal();
  spec.mutable_queue()->set_after_failure(v1::AFTER_FAILURE_KIND_HOLD);
  ASSERT_EQ(Validate(spec).size(), 1);
  spec.mutable_queue()->add_after("jobs/a");
  EXPECT_TRUE(Validate(spec).empty());
}

TEST(QueueTest, JobsOfLowPriorityMayBePreemptedUnlessTheySayNo) {
  v1::JobSpec spec = Minimal();
  spec.mutable_queue()->set_priority(24);
  ResolveDefaults(&spec);
  EXPECT_TRUE(spec.queue().preemptible());
  EXPECT_EQ(spec.queue().name(), "default");
  spec = Minimal();
  spec.mutable_queue()->set_priority(24);
  spec.mutable_queue()->set_preemptible(false);
  ResolveDefaults(&spec);
  EXPECT_FALSE(spec.queue().preemptible());
  spec = Minimal();
  ResolveDefaults(&spec);
  EXPECT_FALSE(spec.queue().preemptible());
}

TEST(QueueTest, MemoryAndTimeLimitsAreRead) {
  EXPECT_EQ(*ParseMemory("40GiB"), int64_t{40} << 30);
  EXPECT_EQ(*ParseMemory("512MiB"), int64_t{512} << 20);
  EXPECT_EQ(*ParseMemory(""), 0);
  for (const char* text : {"40", "GiB", "-1GiB", "0GiB", "1.5GiB", "40 GB", "99999999999TiB"}) {
    EXPECT_FALSE(ParseMemory(text).ok()) << text;
  }
  EXPECT_EQ(*ParseTimeLimit("2h30m"), absl::Minutes(150));
  EXPECT_EQ(*ParseTimeLimit(""), absl::InfiniteDuration());
  for (const char* text : {"0s", "-1h", "2", "inf", "1 day", "100ms"}) EXPECT_FALSE(ParseTimeLimit(text).ok()) << text;
}

TEST(CheckpointTest, TheIntervalWithinAnUpdateIsRead) {
  EXPECT_EQ(*ParseSaveInterval("90s"), absl::Seconds(90));
  EXPECT_EQ(*ParseSaveInterval("0"), absl::ZeroDuration());
  for (const char* text : {"999ms", "-1s", "60", "25h", "inf", "often"}) {
    EXPECT_FALSE(ParseSaveInterval(text).ok()) << text;
  }
  v1::JobSpec spec = Minimal();
  ResolveDefaults(&spec);
  EXPECT_EQ(spec.checkpoint().within_update(), "60s");
  spec.mutable_checkpoint()->set_within_update("often");
  const std::vector<FieldViolation> violations = Validate(spec);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, "checkpoint.within_update");
}

TEST(ConditionTest, ReadsEveryOperator) {
  const auto at_least = ParseCondition("accuracy >= 0.999");
  ASSERT_TRUE(at_least.ok());
  EXPECT_EQ(at_least->metric, "accuracy");
  EXPECT_TRUE(at_least->Holds(0.999));
  EXPECT_FALSE(at_least->Holds(0.998));
  EXPECT_TRUE(ParseCondition("loss<=1e-3")->Holds(1e-3));
  EXPECT_FALSE(ParseCondition("loss < 1")->Holds(1));
  EXPECT_FALSE(ParseCondition(" loss > 1 ")->Holds(1));
}

TEST(ConditionTest, NothingHoldsForNan) {
  for (const char* text : {"loss < 1", "loss > 1", "loss <= 1", "loss >= 1"}) {
    EXPECT_FALSE(ParseCondition(text)->Holds(std::nan("")));
  }
}

TEST(ConditionTest, OtherFormsAreRefused) {
  for (const char* text :
       {"", "accuracy", ">= 1", "accuracy >=", "accuracy = 1", "accuracy == 1", "accuracy => 1", "a b > 1",
        "accuracy > x", "accuracy > nan", "accuracy > inf", "accuracy > 1 2", "5 > 1", "accuracy >> 1"}) {
    EXPECT_FALSE(ParseCondition(text).ok()) << text;
  }
}

TEST(CheckPathsTest, NamesWhatCannotBeRead) {
  testing_util::TempDir dir;
  ASSERT_TRUE(WriteFileDurably(dir.path() + "/good", "text").ok());
  ASSERT_TRUE(WriteFileDurably(dir.path() + "/empty", "").ok());
  v1::JobSpec spec = Minimal(absl::StrCat("{kind: text, path: ", dir.path(), "/good}"));
  EXPECT_TRUE(CheckPaths(spec).empty());
  spec.mutable_task()->set_valid_path(dir.path() + "/none");
  ASSERT_EQ(CheckPaths(spec).size(), 1);
  EXPECT_EQ(CheckPaths(spec)[0].field, "task.valid_path");
  EXPECT_THAT(CheckPaths(spec)[0].reason, HasSubstr("No such file"));
  spec.mutable_task()->set_valid_path(dir.path());
  EXPECT_THAT(CheckPaths(spec)[0].reason, HasSubstr("is a folder"));
  spec.mutable_task()->set_valid_path(dir.path() + "/empty");
  EXPECT_THAT(CheckPaths(spec)[0].reason, HasSubstr("is empty"));
}

}  // namespace
}  // namespace sab::spec
