#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <prometheus/counter.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/metrics/http_server.h"
#include "gmock/gmock.h"

namespace sab {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// The whole answer to a GET, head included; "" when there is no server.
std::string Get(const std::string& address, const std::string& path, const std::string& method = "GET") {
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0) {
    const std::string request = absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    char buffer[4096];
    for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;) answer.append(buffer, static_cast<size_t>(got));
  }
  close(fd);
  return answer;
}

class MetricsServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = MetricsServer::Start(registry_, {.listen = "127.0.0.1:0", .ready = [this] {
      return ready_ ? std::string() : std::string("no answer from the coordinator");
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
  const std::string answer = Get(server_->address(), "/metrics");
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
  EXPECT_THAT(Get(server_->address(), "/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(MetricsServerTest, ReadinessNamesWhatIsMissing) {
  EXPECT_THAT(Get(server_->address(), "/readyz"), StartsWith("HTTP/1.1 200"));
  ready_ = false;
  const std::string answer = Get(server_->address(), "/readyz");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(answer, HasSubstr("no answer from the coordinator"));
}

TEST_F(MetricsServerTest, OtherPathsAreNotFound) {
  EXPECT_THAT(Get(server_->address(), "/metricsx"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get(server_->address(), "/"), StartsWith("HTTP/1.1 404"));
}

TEST_F(MetricsServerTest, HeadHasNoBody) {
  const std::string answer = Get(server_->address(), "/healthz", "HEAD");
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
  EXPECT_EQ(MetricsServer::Start(registry_, {.listen = "localhost"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MetricsServer::Start(registry_, {.listen = "localhost:99999"}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(MetricsServerTest, AnswersUntilDestroyed) {
  const std::string address = server_->address();
  server_.reset();
  EXPECT_EQ(Get(address, "/healthz"), "");
}

}  // namespace
}  // namespace sab
