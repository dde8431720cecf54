#include "server/services/hold_timer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>

namespace sab::server {
namespace {

class Told : public HoldTimer::Call {
 public:
  void OnHoldOver() override { told_.set_value(); }
  // Whether it has been told within a minute.
  bool Await() { return told_.get_future().wait_for(std::chrono::minutes(1)) == std::future_status::ready; }

 private:
  std::promise<void> told_;
};

TEST(HoldTimerTest, TellsACallThatIsTheOnlyOne) {
  HoldTimer timer;
  const auto call = std::make_shared<Told>();
  timer.Add(absl::Milliseconds(1), call);
  EXPECT_TRUE(call->Await());
  const auto next = std::make_shared<Told>();
  timer.Add(absl::Milliseconds(1), next);
  EXPECT_TRUE(next->Await());
}

TEST(HoldTimerTest, TellsAShorterHoldThatWasAddedLaterAndNoCallThatIsGone) {
  HoldTimer timer;
  const auto later = std::make_shared<Told>();
  timer.Add(absl::Hours(1), later);
  timer.Add(absl::Milliseconds(1), std::make_shared<Told>());
  const auto sooner = std::make_shared<Told>();
  timer.Add(absl::Milliseconds(2), sooner);
  EXPECT_TRUE(sooner->Await());
}

}  // namespace
}  // namespace sab::server
