#include <prometheus/counter.h>

#include <atomic>

#include "common/metrics/http_server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/util/http_get.h"

namespace sab {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing_util::HttpGet;

class MetricsServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = MetricsServer::Start(registry_, {.listen = "127.0.0.1:0", .ready = [this] {
                                                     return ready_ ? std::string()
                                                                   : std::string("no answer from the coordinator");
                                                   }});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::atomic<bool> ready_ = true;
  std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  std::unique_ptr<MetricsServer> server_;
};

TEST_F(MetricsServerTest, ServesTheRegistryAndTheProcessUnderMetrics) {
  prometheus::BuildCounter().Name("sab_things_total").Help("Things").Register(*registry_).Add({}).Increment(3);
  const std::string answer = HttpGet(server_->address(), "/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(answer, HasSubstr("sab_things_total 3\n"));
  EXPECT_THAT(answer, HasSubstr("\nprocess_resident_memory_bytes "));
  EXPECT_THAT(answer, HasSubstr("sab_build_info{version=\""));
}

TEST_F(MetricsServerTest, PortZeroBecomesAFreePort) {
  EXPECT_THAT(server_->address(), StartsWith("127.0.0.1:"));
  EXPECT_THAT(server_->address(), testing::Not(testing::EndsWith(":0")));
}

TEST_F(MetricsServerTest, IsHealthyWhateverReadinessSays) {
  ready_ = false;
  EXPECT_THAT(HttpGet(server_->address(), "/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(MetricsServerTest, ReadinessNamesWhatIsMissing) {
  EXPECT_THAT(HttpGet(server_->address(), "/readyz"), StartsWith("HTTP/1.1 200"));
  ready_ = false;
  const std::string answer = HttpGet(server_->address(), "/readyz");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(answer, HasSubstr("no answer from the coordinator"));
}

TEST_F(MetricsServerTest, OtherPathsAreNotFound) {
  EXPECT_THAT(HttpGet(server_->address(), "/metricsx"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(HttpGet(server_->address(), "/"), StartsWith("HTTP/1.1 404"));
}

TEST_F(MetricsServerTest, HeadHasNoBody) {
  const std::string answer = HttpGet(server_->address(), "/healthz", "HEAD");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(answer, testing::EndsWith("\r\n\r\n"));
}

TEST_F(MetricsServerTest, ATakenPortIsRefusedWithTheSystemsReason) {
  const auto second = MetricsServer::Start(registry_, {.listen = server_->address()});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("Address already in use"));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(server_->address()));
}

TEST_F(MetricsServerTest, AnAddressWithoutAPortIsRefused) {
  EXPECT_EQ(MetricsServer::Start(registry_, {.listen = "localhost"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MetricsServer::Start(registry_, {.listen = "localhost:99999"}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(MetricsServerTest, AnswersUntilDestroyed) {
  const std::string address = server_->address();
  server_.reset();
  EXPECT_EQ(HttpGet(address, "/healthz"), "");
}

}  // namespace
}  // namespace sab
