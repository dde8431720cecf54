#include "worker/agent/standby.h"

#include "gtest/gtest.h"

namespace sab::agent {
namespace {

v1::TrainerId Id(int rank) {
  v1::TrainerId id;
  id.set_job("jobs/j");
  id.set_attempt(1);
  id.set_rank(rank);
  return id;
}

TEST(StandbyPoolTest, TheOneThatWaitsIsTakenFirstAndReplaced) {
  StandbyPool pool(2);
  pool.Add(1, 11);
  pool.Add(2, 12);
  EXPECT_FALSE(pool.Wants());
  EXPECT_TRUE(absl::IsUnavailable(pool.Ask(2).status()));
  EXPECT_EQ(pool.Take(Id(0))->number, 2);
  EXPECT_TRUE(pool.Wants());
}

TEST(StandbyPoolTest, OneThatStillLoadsIsToldWhenItAsks) {
  StandbyPool pool(1);
  pool.Add(1, 11);
  EXPECT_EQ(pool.Take(Id(3))->handle, 11);
  EXPECT_FALSE(pool.Take(Id(4)).has_value());
  EXPECT_EQ(pool.Ask(1)->rank(), 3);
  EXPECT_TRUE(absl::IsAborted(pool.Ask(1).status()));
}

TEST(StandbyPoolTest, AProgramThatKnowsNoStandbysIsNotStartedForEver) {
  StandbyPool pool(1);
  int starts = 0;
  while (pool.Wants() && starts < 100) {
    pool.Add(pool.NextNumber(), ++starts);
    pool.Fail(starts);
  }
  EXPECT_LT(starts, 10);
}

}  // namespace
}  // namespace sab::agent
