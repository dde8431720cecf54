// Run with tests/util/shifted_clock.cc preloaded: the wall clock is set back by hours while someone waits.
#include <gtest/gtest.h>

#include <cstdlib>

#include "common/base/clock.h"
#include "common/base/mutex.h"

namespace sab {
namespace {

TEST(ShiftedClockTest, AWaitLastsAsLongAsAsked) {
  ASSERT_NE(std::getenv("SHIFTED_CLOCK_SECONDS"), nullptr);
  Mutex mutex;
  CondVar never;
  const absl::Duration begin = SystemClock().Monotonic();
  MutexLock lock(&mutex);
  while (SystemClock().Monotonic() - begin < absl::Milliseconds(20)) {
    // With a point of the wall clock it would last until the test's time limit.
    never.WaitFor(&mutex, absl::Milliseconds(20));
  }
}

}  // namespace
}  // namespace sab
