#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

namespace sab::model {

// A collective call did not complete: a peer left, did not arrive in time, or Abort was called. The text names this
// rank and the call.
class CollectiveError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What the ranks of one job do together. Every rank makes the same calls in the same order with tensors of the same
// shape and type; all of them but Abort come from one thread. Results are the same bits on every rank. Tensors are
// contiguous and on the group's device. On CUDA a call is ordered on the current stream and may return before it is
// done.
class Collective {
 public:
  virtual ~Collective() = default;

  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  // What carries the calls: "shared memory", "Gloo", "NCCL"; "nothing" for one rank.
  virtual std::string transport() const = 0;

  // Replaces `tensor`, of float, double or int64, by its sum over all ranks.
  virtual void AllReduceSum(at::Tensor& tensor) = 0;
  // The same, added up in pairs, element by element: ((0 + 1) + (2 + 3)) + ((4 + 5) + ...), what has no partner goes
  // up as it is. The bits depend on nothing but the ranks' values: not on what carries the call, nor on the machine.
  virtual void AllReduceSumInPairs(at::Tensor& tensor) = 0;
  // Replaces `tensor` by that of `root`.
  virtual void Broadcast(at::Tensor& tensor, int root) = 0;
  // Returns once every rank has called it.
  virtual void Barrier() = 0;

  // Makes a blocked call, and every later one, throw CollectiveError. Any thread; returns soon. Connections to the
  // peers are closed, so that calls of theirs that wait for this rank fail too. The group can only be destroyed then,
  // which waits until nothing works on the tensors any more: a new group of the same process may use them again. The
  // process ignores SIGPIPE: connections break while they are written to.
  virtual void Abort() = 0;
};

// Rank 0 of 1: every call returns at once.
std::unique_ptr<Collective> MakeSingleProcessCollective();

// The key-value store (c10d::TCPStore) through which ranks find each other. Rank 0 opens it, the others connect.
class Rendezvous {
 public:
  virtual ~Rendezvous() = default;

  // Serves a store on a free port of `host`: of loopback alone when that is "127.0.0.1", else of all interfaces.
  // Throws std::runtime_error with the system's reason.
  static std::shared_ptr<Rendezvous> Open(const std::string& host);
  // Throws CollectiveError naming `address` ("HOST:PORT") when it does not answer within `timeout`.
  static std::shared_ptr<Rendezvous> Connect(const std::string& address, std::chrono::milliseconds timeout);

  // "HOST:PORT" to give to the other ranks.
  virtual const std::string& address() const = 0;
};

struct CollectiveOptions {
  int rank = 0;
  int world_size = 1;
  at::Device device = at::kCPU;  // CPU: shared memory on one machine, else Gloo; CUDA: NCCL, one rank a GPU
  bool shared_memory = true;     // false, on any rank: Gloo for all
  std::string local_host;        // peers reach this rank there; empty: found from the route to the store
  std::chrono::milliseconds timeout = std::chrono::seconds(60);          // of every call
  std::chrono::milliseconds meeting_timeout = std::chrono::seconds(60);  // for all ranks to arrive
  std::function<bool()> interrupted;  // looked at while ranks are awaited; true: give up. May be empty
};

// Meets all ranks; blocks until they are there. Throws CollectiveError, also when the device's backend is not in this
// build.
std::unique_ptr<Collective> MakeCollective(std::shared_ptr<Rendezvous> rendezvous, const CollectiveOptions& options);

// Loads LibTorch's CUDA part, which programs do not link. Call it before the first use of a CUDA device, from one
// thread. Idempotent. Throws std::runtime_error with the loader's reason.
void LoadCudaLibraries();

}  // namespace sab::model
