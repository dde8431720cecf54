#include <ATen/ops/empty_like.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "model/collective/backend.h"
#include "model/collective/collective.h"
#include "model/collective/shared_memory_collective.h"

namespace sab::model {
namespace {

constexpr char kLoopback[] = "127.0.0.1";
// Elements of every rank that an AllReduceSumInPairs holds at a time.
constexpr int64_t kGathered = int64_t{1} << 21;

std::string SystemError(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

// c10d records every call of every group in one unlocked table of the process (FlightRecorder). Nobody reads it here,
// it costs time in each call, and several groups in one process race in it.
void DisableFlightRecorder() {
  static std::once_flag once;
  std::call_once(once, [] { setenv("TORCH_FR_BUFFER_SIZE", "0", 0); });
}

// LibTorch's messages carry a stack trace behind the first line.
std::string FirstLine(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

class TcpRendezvous : public Rendezvous {
 public:
  TcpRendezvous(c10::intrusive_ptr<c10d::TCPStore> store, std::string address)
      : store_(std::move(store)), address_(std::move(address)) {}
  const std::string& address() const override { return address_; }
  const c10::intrusive_ptr<c10d::TCPStore>& store() const { return store_; }

 private:
  c10::intrusive_ptr<c10d::TCPStore> store_;
  std::string address_;
};

struct Address {
  std::string host;
  uint16_t port = 0;
};

Address SplitAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  const int port = colon == std::string::npos ? 0 : std::atoi(text.c_str() + colon + 1);
  if (port <= 0 || port > 65535) throw CollectiveError("rendezvous '" + text + "': must be HOST:PORT");
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return {host, static_cast<uint16_t>(port)};
}

// A listening socket on loopback: TCPStore by itself would listen on every interface.
int ListenOnLoopback(uint16_t* port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) throw std::runtime_error(SystemError("rendezvous store: socket"));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(fd, generic, length) != 0 || listen(fd, SOMAXCONN) != 0 || getsockname(fd, generic, &length) != 0) {
    const std::string reason = SystemError("rendezvous store: cannot listen on 127.0.0.1");
    close(fd);
    throw std::runtime_error(reason);
  }
  *port = ntohs(address.sin_port);
  return fd;
}

// The address of this machine from which `peer` is reached; no packet is sent.
std::string LocalAddressTowards(const Address& peer) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(peer.host.c_str(), std::to_string(peer.port).c_str(), &hints, &found) != 0 || found == nullptr)
    return kLoopback;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  const int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return kLoopback;
  sockaddr_storage local{};
  socklen_t length = sizeof(local);
  char text[NI_MAXHOST] = "";
  const bool ok =
      connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(&local), &length) == 0 &&
      getnameinfo(reinterpret_cast<sockaddr*>(&local), length, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0;
  close(fd);
  return ok ? text : kLoopback;
}

// The connections that come up while this lives, by descriptor and inode. Gloo can neither interrupt a call nor say
// which sockets are its own; but a connection that is shut down fails the calls that wait for it, here and at the peer.
class Connections {
 public:
  Connections() : before_(Sockets()) {}
  // From now on, what has come up since the beginning counts and nothing later.
  void Close() {
    for (const auto& socket : Sockets()) {
      if (!before_.contains(socket)) mine_.insert(socket);
    }
  }
  // Any thread.
  void ShutDown() const {
    for (const auto& [fd, inode] : mine_) {
      struct stat now {};
      // Still the same socket, and not another file under its number.
      if (fstat(fd, &now) == 0 && now.st_ino == inode) shutdown(fd, SHUT_RDWR);
    }
  }

 private:
  using Socket = std::pair<int, ino_t>;
  // Connected TCP sockets of this process.
  static std::set<Socket> Sockets() {
    std::set<Socket> sockets;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
      const int fd = std::atoi(entry.path().filename().c_str());
      struct stat info {};
      sockaddr_storage peer{};
      socklen_t length = sizeof(peer);
      if (fstat(fd, &info) != 0 || !S_ISSOCK(info.st_mode)) continue;
      if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) != 0) continue;
      if (peer.ss_family == AF_INET || peer.ss_family == AF_INET6) sockets.emplace(fd, info.st_ino);
    }
    return sockets;
  }
  const std::set<Socket> before_;
  std::set<Socket> mine_;
};

// Waits until `key` is set. Given up when `interrupted`, or after the meeting's time.
void AwaitKey(c10d::Store& store, const std::string& key, const CollectiveOptions& options) {
  constexpr std::chrono::milliseconds kLook(100);
  const auto deadline = std::chrono::steady_clock::now() + options.meeting_timeout;
  while (true) {
    try {
      return store.wait({key}, kLook);
    } catch (const c10::DistStoreError&) {
      if (options.interrupted && options.interrupted()) throw CollectiveError("meeting: aborted");
      if (std::chrono::steady_clock::now() > deadline)
        throw CollectiveError("meeting: a rank did not come: nobody has set " + key);
    }
  }
}

// Waits until every rank has come to the store.
void AwaitPeers(c10d::Store& store, const CollectiveOptions& options) {
  const auto key = [](int rank) { return "joined/" + std::to_string(rank); };
  store.set(key(options.rank), std::vector<uint8_t>{1});
  for (int rank = 0; rank < options.world_size; ++rank) AwaitKey(store, key(rank), options);
}

c10::intrusive_ptr<c10d::Backend> MakeGloo(const c10::intrusive_ptr<c10d::Store>& store, const std::string& rendezvous,
                                           const CollectiveOptions& options) {
  const Address address = SplitAddress(rendezvous);
  const std::string host = address.host == kLoopback    ? kLoopback
                           : options.local_host.empty() ? LocalAddressTowards(address)
                                                        : options.local_host;
  // All are there: to connect takes no longer than the network does.
  constexpr std::chrono::seconds kConnect(20);
  auto gloo = c10d::ProcessGroupGloo::Options::create(kConnect);
  gloo->devices = {c10d::ProcessGroupGloo::createDeviceForHostname(host)};
  gloo->threads = 1;
  auto group = c10::make_intrusive<c10d::ProcessGroupGloo>(store, options.rank, options.world_size, gloo);
  group->setTimeout(options.timeout);
  return group;
}

NoticeBoard BoardOver(const c10::intrusive_ptr<c10d::Store>& store, const CollectiveOptions& options) {
  return {.set = [store](const std::string& key, const std::string& text) { store->set(key, text); },
          .get =
              [store, options](const std::string& key) {
                AwaitKey(*store, key, options);
                return store->get_to_str(key);
              }};
}

// What a waiting caller, the finished call and Abort share.
struct Completion {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  bool aborted = false;
};

class C10dCollective : public Collective {
 public:
  C10dCollective(std::shared_ptr<Rendezvous> rendezvous, c10::intrusive_ptr<c10d::Backend> backend,
                 Connections connections, const CollectiveOptions& options)
      : rendezvous_(std::move(rendezvous)),
        backend_(std::move(backend)),
        connections_(std::move(connections)),
        options_(options) {}

  ~C10dCollective() override {
    // A call that failed on the way to one peer may still wait for another.
    if (broken_) Disconnect();
  }

  int rank() const override { return options_.rank; }
  int world_size() const override { return options_.world_size; }
  std::string transport() const override { return options_.device.is_cuda() ? "NCCL" : "Gloo"; }

  void AllReduceSum(at::Tensor& tensor) override {
    Run("all-reduce", [&] {
      std::vector<at::Tensor> tensors = {tensor};
      return backend_->allreduce(tensors);
    });
  }

  void AllReduceSumInPairs(at::Tensor& tensor) override {
    // Everybody gets everything, some at a time, and adds up alike.
    at::Tensor flat = tensor.view(-1);
    for (int64_t first = 0; first < flat.numel(); first += kGathered) {
      at::Tensor part = flat.narrow(0, first, std::min(kGathered, flat.numel() - first));
      std::vector<at::Tensor> mine = {part};
      std::vector<std::vector<at::Tensor>> all(1);
      for (int rank = 0; rank < world_size(); ++rank) all[0].push_back(at::empty_like(part));
      Run("all-gather", [&] { return backend_->allgather(all, mine); });
      std::vector<at::Tensor>& values = all[0];
      for (size_t span = 1; span < values.size(); span *= 2) {
        for (size_t i = 0; i + span < values.size(); i += 2 * span) values[i].add_(values[i + span]);
      }
      part.copy_(values[0]);
    }
  }

  void Broadcast(at::Tensor& tensor, int root) override {
    Run("broadcast", [&] {
      std::vector<at::Tensor> tensors = {tensor};
      c10d::BroadcastOptions broadcast;
      broadcast.rootRank = root;
      return backend_->broadcast(tensors, broadcast);
    });
  }

  void Barrier() override {
    Run("barrier", [&] {
      c10d::BarrierOptions barrier;
      if (options_.device.is_cuda()) barrier.device = options_.device;
      return backend_->barrier(barrier);
    });
  }

  void Abort() override {
    {
      const std::lock_guard<std::mutex> lock(completion_->mutex);
      completion_->aborted = true;
    }
    completion_->changed.notify_all();
    Disconnect();
  }

 private:
  void Disconnect() {
    if (options_.device.is_cuda()) {
      backend_->abort();
    } else {
      connections_.ShutDown();
    }
  }

  template <typename Start>
  void Run(const char* what, Start start) {
    ThrowIfAborted(what);
    try {
      const c10::intrusive_ptr<c10d::Work> work = start();
      if (options_.device.is_cuda()) {
        work->wait();
      } else {
        WaitOrAbort(*work);
      }
    } catch (const CollectiveError&) {
      broken_ = true;
      throw;
    } catch (const std::exception& error) {
      broken_ = true;
      ThrowIfAborted(what);
      throw CollectiveError(Place(what) + FirstLine(error.what()));
    }
    ThrowIfAborted(what);
  }

  // Gloo calls run on a thread of the group's: the wait for it is interrupted before the call itself has failed.
  void WaitOrAbort(c10d::Work& work) {
    completion_->done = false;
    work.getFuture()->addCallback([completion = completion_](c10::ivalue::Future&) {
      {
        const std::lock_guard<std::mutex> lock(completion->mutex);
        completion->done = true;
      }
      completion->changed.notify_all();
    });
    {
      std::unique_lock<std::mutex> lock(completion_->mutex);
      completion_->changed.wait(lock, [&] { return completion_->done || completion_->aborted; });
      if (!completion_->done) throw CollectiveError(Place("call") + "aborted");
    }
    work.wait();  // done: returns at once, or throws what went wrong
  }

  void ThrowIfAborted(const char* what) {
    const std::lock_guard<std::mutex> lock(completion_->mutex);
    if (completion_->aborted) throw CollectiveError(Place(what) + "aborted");
  }

  std::string Place(const char* what) const {
    return "rank " + std::to_string(options_.rank) + " of " + std::to_string(options_.world_size) + ": " + what + ": ";
  }

  const std::shared_ptr<Rendezvous> rendezvous_;  // rank 0 serves the store for as long as the group lives
  c10::intrusive_ptr<c10d::Backend> backend_;
  const Connections connections_;
  const CollectiveOptions options_;
  const std::shared_ptr<Completion> completion_ = std::make_shared<Completion>();
  bool broken_ = false;
};

}  // namespace

std::shared_ptr<Rendezvous> Rendezvous::Open(const std::string& host) {
  DisableFlightRecorder();
  c10d::TCPStoreOptions options;
  options.port = 0;
  options.isServer = true;
  options.waitWorkers = false;
  if (host == kLoopback) options.masterListenFd = ListenOnLoopback(&options.port);
  try {
    auto store = c10::make_intrusive<c10d::TCPStore>(kLoopback, options);
    const std::string shown = host.find(':') == std::string::npos ? host : "[" + host + "]";
    std::string address = shown + ":" + std::to_string(store->getPort());
    return std::make_shared<TcpRendezvous>(std::move(store), std::move(address));
  } catch (const std::exception& error) {
    throw std::runtime_error("rendezvous store: " + FirstLine(error.what()));
  }
}

std::shared_ptr<Rendezvous> Rendezvous::Connect(const std::string& address, std::chrono::milliseconds timeout) {
  DisableFlightRecorder();
  const Address target = SplitAddress(address);
  c10d::TCPStoreOptions options;
  options.port = target.port;
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return std::make_shared<TcpRendezvous>(c10::make_intrusive<c10d::TCPStore>(target.host, options), address);
  } catch (const std::exception& error) {
    throw CollectiveError("rendezvous " + address + ": " + FirstLine(error.what()));
  }
}

std::unique_ptr<Collective> MakeCollective(std::shared_ptr<Rendezvous> rendezvous, const CollectiveOptions& options) {
  const auto& tcp = dynamic_cast<TcpRendezvous&>(*rendezvous);
  const c10::intrusive_ptr<c10d::Store> store = tcp.store();
  try {
    store->setTimeout(options.meeting_timeout);
    AwaitPeers(*store, options);
    c10::intrusive_ptr<c10d::Backend> backend;
    Connections connections;
    if (options.device.is_cuda()) {
      LoadMakeNccl()(&backend, &store, options);
    } else if (auto group = MakeSharedMemoryCollective(BoardOver(store, options), options)) {
      return group;
    } else {
      backend = MakeGloo(store, tcp.address(), options);
    }
    connections.Close();
    return std::make_unique<C10dCollective>(std::move(rendezvous), std::move(backend), std::move(connections), options);
  } catch (const CollectiveError&) {
    throw;
  } catch (const std::exception& error) {
    throw CollectiveError("rank " + std::to_string(options.rank) + " of " + std::to_string(options.world_size) +
                          ": meeting at " + tcp.address() + ": " + FirstLine(error.what()));
  }
}

}  // namespace sab::model
