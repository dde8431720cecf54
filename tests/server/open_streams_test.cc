#include "server/services/open_streams.h"

#include <gtest/gtest.h>

#include "common/base/status.h"
#include "tests/util/fake_clock.h"

namespace sab::server {
namespace {

struct FakeStream : OpenStreams::Stream {
  void Cut() override { ++cuts; }
  int cuts = 0;
};

class OpenStreamsTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakeStream> Add() {
    auto stream = std::make_shared<FakeStream>();
    EXPECT_TRUE(streams_.Add(stream).ok());
    return stream;
  }
  testing_util::FakeClock clock_;
  OpenStreams streams_{{.stall_limit = absl::Seconds(60), .most = 2}, &clock_};
};

TEST_F(OpenStreamsTest, AStreamIsCutOnceWhenAMessageIsNotTakenInTime) {
  const auto stream = Add();
  streams_.WriteBegins(stream.get());
  clock_.Advance(absl::Seconds(60) - absl::Nanoseconds(1));
  streams_.CutStalled();
  EXPECT_EQ(stream->cuts, 0);
  clock_.Advance(absl::Nanoseconds(1));
  streams_.CutStalled();
  streams_.CutStalled();
  EXPECT_EQ(stream->cuts, 1);
  EXPECT_EQ(streams_.cut(), 1);
}

TEST_F(OpenStreamsTest, AStreamThatHasNothingToSendStaysForEver) {
  const auto stream = Add();
  streams_.WriteBegins(stream.get());
  streams_.WriteEnded(stream.get());
  clock_.Advance(absl::Hours(100));
  streams_.CutStalled();
  EXPECT_EQ(stream->cuts, 0);
}

TEST_F(OpenStreamsTest, NoMoreThanItsBoundAreOpen) {
  const auto first = Add();
  const auto second = Add();
  const absl::Status refused = streams_.Add(std::make_shared<FakeStream>());
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_EQ(ReasonOf(refused), "TOO_MANY_STREAMS");
  streams_.Remove(first.get());
  Add();
}

}  // namespace
}  // namespace sab::server
