#include "absl/strings/cord.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/rpc/trainer_id.h"
#include "gtest/gtest.h"

namespace sab::rpc {
namespace {

TEST(StatusTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

TEST(StatusTest, EveryCodeAndTextSurvivesTheWayThere) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "text ä");
    const grpc::Status sent = ToGrpc(status);
    EXPECT_EQ(static_cast<int>(sent.error_code()), code);
    EXPECT_EQ(sent.error_message(), "text ä");
    EXPECT_EQ(FromGrpc(sent), status);
  }
}

TEST(StatusTest, ReasonAndViolationsTravelAsDetails) {
  const absl::Status status = WithReason(
      InvalidFields({{"train.steps", "must be given", 0}, {"name", "must not be empty", 3}}), "INVALID_SPEC");
  const absl::Status received = FromGrpc(ToGrpc(status));
  EXPECT_EQ(received, status);
  EXPECT_EQ(ReasonOf(received), "INVALID_SPEC");
  ASSERT_EQ(ViolationsOf(received).size(), 2);
  EXPECT_EQ(ViolationsOf(received)[1].reason, "line 3: must not be empty");
}

TEST(StatusTest, LongTextIsCutInTheTrailerAndKeepsItsReason) {
  const std::string text(100'000, 'x');
  const grpc::Status sent = ToGrpc(WithReason(absl::InternalError(text), "LONG"));
  EXPECT_LT(sent.error_message().size(), 3'000);
  EXPECT_LT(sent.error_details().size(), 20'000);
  EXPECT_EQ(ReasonOf(FromGrpc(sent)), "LONG");
}

TEST(StatusTest, TooManyViolationsAreLeftOutButTheReasonStays) {
  std::vector<FieldViolation> violations(2'000, FieldViolation{"train.steps", "must be at least 1, got 0", 1});
  const grpc::Status sent = ToGrpc(WithReason(InvalidFields(violations), "INVALID_SPEC"));
  EXPECT_LT(sent.error_details().size(), 40'000);
  EXPECT_EQ(ReasonOf(FromGrpc(sent)), "INVALID_SPEC");
  EXPECT_TRUE(ViolationsOf(FromGrpc(sent)).empty());
}

TEST(StatusTest, DetailsThatAreNoStatusAreIgnored) {
  const absl::Status status = FromGrpc(grpc::Status(grpc::StatusCode::NOT_FOUND, "gone", "\xff\xff garbage"));
  EXPECT_EQ(status, absl::NotFoundError("gone"));
}

TEST(BackoffTest, GrowsUpToItsBoundAndStartsAgainAfterReset) {
  Backoff backoff({.initial = absl::Milliseconds(100), .max = absl::Seconds(1)});
  const absl::Duration first = backoff.Next();
  EXPECT_GE(first, absl::Milliseconds(80));
  EXPECT_LE(first, absl::Milliseconds(120));
  absl::Duration last;
  for (int i = 0; i < 20; ++i) {
    last = backoff.Next();
    EXPECT_LE(last, absl::Seconds(1));
  }
  EXPECT_GE(last, absl::Milliseconds(800));
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Milliseconds(120));
}

TEST(TrainerIdTest, TextReadsBackToTheSame) {
  v1::TrainerId id;
  id.set_job("jobs/a-1");
  id.set_attempt(3);
  id.set_rank(2);
  EXPECT_EQ(FormatTrainerId(id), "jobs/a-1/attempts/3/ranks/2");
  EXPECT_EQ(ParseTrainerId(FormatTrainerId(id))->SerializeAsString(), id.SerializeAsString());
}

TEST(TrainerIdTest, OtherTextsAreRefused) {
  for (const char* text : {"", "jobs/a", "jobs/a/attempts/x/ranks/0", "jobs/a/attempts/0/ranks/0",
                           "jobs//attempts/1/ranks/0", "jobs/a/attempts/1/ranks/-1", "jobs/a/attempts/1/ranks/0/x"}) {
    EXPECT_EQ(ParseTrainerId(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace sab::rpc
