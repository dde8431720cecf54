#include "common/metrics/http_server.h"

#include <CivetServer.h>
#include <netdb.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/metrics/process_metrics.h"

namespace sab {
namespace {

struct Address {
  std::string host;
  std::string port;
};

absl::StatusOr<Address> SplitAddress(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  int port = -1;
  if (colon == std::string::npos || !absl::SimpleAtoi(listen.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics address: must have the form HOST:PORT, got \"", listen, "\""));
  }
  Address address{listen.substr(0, colon), listen.substr(colon + 1)};
  if (address.host.empty()) address.host = "0.0.0.0";
  if (address.host == "localhost") address.host = "127.0.0.1";  // the server wants numbers
  return address;
}

// Opens a socket and hands it to `use` together with the address's numbers. Returns the resolver's complaint, or "".
std::string WithSocket(const Address& address, const std::function<void(int fd, const addrinfo& to)>& use) {
  std::string host = address.host;
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), address.port.c_str(), &hints, &found); error != 0) {
    return absl::StrCat(gai_strerror(error), " (the host must be an IP address)");
  }
  if (const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0); fd >= 0) {
    use(fd, *found);
    close(fd);
  }
  freeaddrinfo(found);
  return "";
}

// CivetWeb does not say why it could not listen: asks the system the same question.
std::string WhyNotListening(const Address& address) {
  std::string why = "the server could not be started";
  const std::string complaint = WithSocket(address, [&](int fd, const addrinfo& to) {
    if (bind(fd, to.ai_addr, to.ai_addrlen) != 0) why = std::strerror(errno);
  });
  return complaint.empty() ? why : complaint;
}

// CivetWeb looks at its stop flag when a connection arrives, or every two seconds: knocks until nobody listens any
// more.
void KnockUntilClosed(const Address& address) {
  for (bool open = true; open;) {
    open = false;
    WithSocket(address, [&](int fd, const addrinfo& to) {
      // A connection taken from the queue after the flag was set may never be answered: hence the time limit.
      const timeval limit{.tv_sec = 0, .tv_usec = 20'000};
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
      open = connect(fd, to.ai_addr, to.ai_addrlen) == 0;
      char byte = 0;
      if (open) (void)recv(fd, &byte, 1, 0);
    });
  }
}

void Answer(mg_connection* connection, int code, const char* reason, const std::string& type, const std::string& body) {
  const std::string head = absl::StrCat("HTTP/1.1 ", code, " ", reason, "\r\nContent-Type: ", type,
                                        "\r\nContent-Length: ", body.size(), "\r\nConnection: close\r\n\r\n");
  mg_write(connection, head.data(), head.size());
  if (std::strcmp(mg_get_request_info(connection)->request_method, "HEAD") != 0) {
    mg_write(connection, body.data(), body.size());
  }
}

// One path; `make` returns (code, content type, body).
class Handler : public CivetHandler {
 public:
  struct Page {
    int code;
    std::string type;
    std::string body;
  };
  explicit Handler(std::function<Page()> make) : make_(std::move(make)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    const Page page = make_();
    Answer(connection, page.code, page.code == 200 ? "OK" : "Service Unavailable", page.type, page.body);
    return true;
  }
  bool handleHead(CivetServer* server, mg_connection* connection) override { return handleGet(server, connection); }

 private:
  const std::function<Page()> make_;
};

int Silence(const mg_connection*, const char*) {
  return 1;
}

class Server : public MetricsServer {
 public:
  Server(std::shared_ptr<prometheus::Registry> registry, Options options)
      : registry_(std::move(registry)),
        ready_(std::move(options.ready)),
        metrics_([this] { return Metrics(); }),
        health_([] {
          return Handler::Page{200, "text/plain", "ok\n"};
        }),
        readiness_([this] { return Readiness(); }) {}

  ~Server() override {
    if (server_ == nullptr) return;
    std::thread knocking([this] { KnockUntilClosed(bound_); });
    server_.reset();
    knocking.join();
  }

  // Throws CivetException.
  void Listen(const Address& address) {
    CivetCallbacks callbacks;
    callbacks.log_message = &Silence;
    server_ = std::make_unique<CivetServer>(
        std::vector<std::string>{"listening_ports", absl::StrCat(address.host, ":", address.port), "num_threads", "2",
                                 "request_timeout_ms", "10000"},
        &callbacks);
    // "$": exactly this path.
    server_->addHandler("/metrics$", metrics_);
    server_->addHandler("/healthz$", health_);
    server_->addHandler("/readyz$", readiness_);
    bound_ = {address.host, absl::StrCat(server_->getListeningPorts().at(0))};
    address_ = absl::StrCat(bound_.host, ":", bound_.port);
  }

  const std::string& address() const override { return address_; }

 private:
  Handler::Page Metrics() const {
    std::vector<prometheus::MetricFamily> families = registry_->Collect();
    for (auto& family : process_.Collect()) families.push_back(std::move(family));
    return {200, "text/plain; version=0.0.4; charset=utf-8", prometheus::TextSerializer().Serialize(families)};
  }

  Handler::Page Readiness() const {
    const std::string missing = ready_ ? ready_() : "";
    return missing.empty() ? Handler::Page{200, "text/plain", "ready\n"}
                           : Handler::Page{503, "text/plain", missing + "\n"};
  }

  const std::shared_ptr<prometheus::Registry> registry_;
  const std::function<std::string()> ready_;
  const ProcessMetrics process_;
  Handler metrics_;
  Handler health_;
  Handler readiness_;
  Address bound_;
  std::string address_;
  std::unique_ptr<CivetServer> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(std::shared_ptr<prometheus::Registry> registry,
                                                                    Options options) {
  const absl::StatusOr<Address> address = SplitAddress(options.listen);
  if (!address.ok()) return address.status();
  const std::string listen = options.listen;
  auto server = std::make_unique<Server>(std::move(registry), std::move(options));
  try {
    server->Listen(*address);
  } catch (const CivetException&) {
    return absl::UnavailableError(absl::StrCat("metrics address ", listen, " cannot be listened on: ",
                                               WhyNotListening(*address), "; choose another with --metrics-listen"));
  }
  return std::unique_ptr<MetricsServer>(std::move(server));
}

}  // namespace sab
