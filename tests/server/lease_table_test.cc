#include "server/lease/lease_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sab::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Duration kLease = absl::Seconds(10);
constexpr absl::Duration kTick = absl::Nanoseconds(1);
const WorkerId kWorker("w");

TEST(LeaseTableTest, WorkerIsLostExactlyWhenItsLeaseEnds) {
  LeaseTable leases(kLease);
  leases.Renew(kWorker, absl::Seconds(5));
  EXPECT_TRUE(leases.IsLive(kWorker, absl::Seconds(15) - kTick));
  EXPECT_THAT(leases.TakeDue(absl::Seconds(15) - kTick).lost, IsEmpty());
  EXPECT_FALSE(leases.IsLive(kWorker, absl::Seconds(15)));
  EXPECT_THAT(leases.TakeDue(absl::Seconds(15)).lost, ElementsAre(kWorker));
}

TEST(LeaseTableTest, WorkerIsLateFromHalfItsLeaseOnAndToldOnce) {
  LeaseTable leases(kLease);
  leases.Renew(kWorker, absl::ZeroDuration());
  EXPECT_TRUE(leases.IsPrompt(kWorker, absl::Seconds(5) - kTick));
  EXPECT_THAT(leases.TakeDue(absl::Seconds(5) - kTick).late, IsEmpty());
  EXPECT_THAT(leases.TakeDue(absl::Seconds(5)).late, ElementsAre(kWorker));
  EXPECT_THAT(leases.TakeDue(absl::Seconds(6)).late, IsEmpty());
}

TEST(LeaseTableTest, ACallRenewsBothDeadlines) {
  LeaseTable leases(kLease);
  leases.Renew(kWorker, absl::ZeroDuration());
  leases.TakeDue(absl::Seconds(6));
  leases.Renew(kWorker, absl::Seconds(7));
  EXPECT_EQ(leases.NextDeadline(), absl::Seconds(12));
  EXPECT_THAT(leases.TakeDue(absl::Seconds(12)).late, ElementsAre(kWorker));
  EXPECT_EQ(leases.NextDeadline(), absl::Seconds(17));
}

TEST(LeaseTableTest, ALostWorkerIsForgottenUntilItCalls) {
  LeaseTable leases(kLease);
  leases.Renew(kWorker, absl::ZeroDuration());
  leases.TakeDue(kLease);
  EXPECT_EQ(leases.NextDeadline(), absl::InfiniteDuration());
  EXPECT_EQ(leases.End(kWorker), -absl::InfiniteDuration());
  leases.Renew(kWorker, absl::Seconds(20));
  EXPECT_TRUE(leases.IsLive(kWorker, absl::Seconds(21)));
}

TEST(LeaseTableTest, TimeInWhichNobodyCouldBeHeardDoesNotCount) {
  LeaseTable leases(kLease);
  leases.Renew(kWorker, absl::ZeroDuration());
  leases.Forgive(absl::Seconds(7), absl::Seconds(12));
  EXPECT_THAT(leases.TakeDue(absl::Seconds(12)).lost, IsEmpty());
  EXPECT_EQ(leases.End(kWorker), absl::Seconds(17));
  // A call is not dated ahead.
  leases.Renew(kWorker, absl::Seconds(13));
  leases.Forgive(absl::Seconds(7), absl::Seconds(14));
  EXPECT_EQ(leases.End(kWorker), absl::Seconds(24));
}

}  // namespace
}  // namespace sab::server
