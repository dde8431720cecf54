#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/spec/spec_file.h"
#include "common/spec/update.h"
#include "common/spec/validate.h"

namespace sab::spec {
namespace {

using ::testing::HasSubstr;

v1::JobSpec Base() {
  v1::JobSpec spec =
      ParseSpec("{name: a, model: {hidden_size: 8}, task: {kind: copy, length: 10}, train: {steps: 100}}")->spec;
  ResolveDefaults(&spec);
  return spec;
}

// What the coordinator keeps of one update.
v1::SpecChange Change(const std::string& assignment, v1::JobSpec* spec) {
  v1::JobSpec values;
  EXPECT_TRUE(ApplyOverride(assignment, &values).ok());
  const v1::JobSpec before = *spec;
  std::vector<std::string> training;
  const auto violations = ApplyUpdate({assignment.substr(0, assignment.find('='))}, values, spec, &training);
  EXPECT_TRUE(violations.empty()) << violations[0].reason;
  v1::SpecChange change;
  for (const std::string& field : training) change.add_fields(field);
  *change.mutable_before() = Pick(training, before);
  *change.mutable_after() = Pick(training, *spec);
  return change;
}

std::string Refusal(const std::string& field) {
  v1::JobSpec spec = Base();
  std::vector<std::string> training;
  const auto violations = ApplyUpdate({field}, Base(), &spec, &training);
  EXPECT_EQ(violations.size(), 1u) << field;
  EXPECT_EQ(spec.SerializeAsString(), Base().SerializeAsString());
  return violations.empty() ? "" : violations[0].field + ": " + violations[0].reason;
}

TEST(SpecUpdateTest, AStepIsTrainedWithTheSettingsThatHeldThen) {
  v1::JobSpec spec = Base();
  SpecChanges changes;
  *changes.Add() = Change("train.learning_rate=0.5", &spec);
  changes[0].set_after_step(10);
  *changes.Add() = Change("model.memory.capacity=9", &spec);
  changes[1].set_after_step(20);
  *changes.Add() = Change("train.learning_rate=0.25", &spec);
  changes[2].set_after_step(20);
  EXPECT_EQ(SpecOfStep(spec, changes, 0).train().learning_rate(), 1e-3);
  EXPECT_EQ(SpecOfStep(spec, changes, 10).train().learning_rate(), 1e-3);
  EXPECT_EQ(SpecOfStep(spec, changes, 11).train().learning_rate(), 0.5);
  EXPECT_EQ(SpecOfStep(spec, changes, 20).train().learning_rate(), 0.5);
  EXPECT_EQ(SpecOfStep(spec, changes, 20).model().memory().capacity(), 0);
  EXPECT_EQ(SpecOfStep(spec, changes, 21).SerializeAsString(), spec.SerializeAsString());
  EXPECT_EQ(spec.model().memory().capacity(), 9);
}

TEST(SpecUpdateTest, AChangeTakesEffectWhereTrainingGoesOnAndTakesThoseOfLaterStepsWithIt) {
  v1::JobSpec spec = Base();
  SpecChanges changes;
  *changes.Add() = Change("train.learning_rate=0.5", &spec);
  Settle(100, &changes);
  EXPECT_EQ(changes[0].after_step(), 100);
  // Training goes on from an older checkpoint: nothing new, nothing moves.
  Settle(50, &changes);
  EXPECT_EQ(changes[0].after_step(), 100);
  *changes.Add() = Change("train.clip_norm=2", &spec);
  Settle(60, &changes);
  EXPECT_EQ(changes[0].after_step(), 60);
  EXPECT_EQ(changes[1].after_step(), 60);
}

TEST(SpecUpdateTest, WhatShapesAndDataDependOnIsRefusedWithTheReason) {
  EXPECT_THAT(Refusal("model.hidden_size"), HasSubstr("changes the shapes of the parameters"));
  EXPECT_THAT(Refusal("model.score"), HasSubstr("changes the shapes of the parameters"));
  EXPECT_THAT(Refusal("train.seed"), HasSubstr("is fixed for the life of a job"));
  EXPECT_THAT(Refusal("train.batch_size"), HasSubstr("These can be changed: "));
  EXPECT_THAT(Refusal("resources.replicas"), HasSubstr("is fixed"));
  EXPECT_THAT(Refusal("train.learning"), HasSubstr("there is no such setting"));
  EXPECT_THAT(Refusal("train.steps.more"), HasSubstr("there is no such setting"));
}

TEST(SpecUpdateTest, OnlyWhatTheTrainersReadAndWhatDiffersIsNewsToThem) {
  v1::JobSpec spec = Base(), values = Base();
  values.mutable_checkpoint()->set_keep_latest(9);
  values.mutable_eval()->add_lengths(20);
  std::vector<std::string> training;
  ASSERT_TRUE(
      ApplyUpdate({"checkpoint.keep_latest", "train.learning_rate", "eval.lengths"}, values, &spec, &training).empty());
  EXPECT_EQ(training, std::vector<std::string>{"eval.lengths"});
  EXPECT_EQ(spec.checkpoint().keep_latest(), 9);
  spec.set_action(v1::ACTION_KIND_EVALUATE);
  values.mutable_train()->set_learning_rate(1);
  EXPECT_THAT(ApplyUpdate({"train.learning_rate"}, values, &spec, &training).at(0).reason, HasSubstr("does not train"));
}

}  // namespace
}  // namespace sab::spec
