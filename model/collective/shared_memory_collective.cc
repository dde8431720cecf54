#include "model/collective/shared_memory_collective.h"

#include <ATen/core/Tensor.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <optional>
#include <sstream>
#include <vector>

#include "model/collective/peer_process.h"
#include "model/collective/shared_barrier.h"
#include "model/collective/shared_segment.h"
#include "model/collective/shared_sum.h"

namespace sab::model {
namespace {

// The segment:
//   nonce                       rank 0's, by which the others know that they map the same
//   BarrierSlot[world_size]
//   Half[world_size][2]         rank r writes Half[r][*] alone
// The rule that keeps writers and readers apart: before its synchronisation number s a rank writes to its half s % 2;
// between s and s + 1 the peers read it. So it is free again when s + 1 is complete, and s + 2 is the next to use it.
constexpr int64_t kAlign = 128;  // a pair of cache lines
// Of a tensor, worked on at a time. Both halves stay in a second-level cache of 1 MiB; smaller ones synchronise more
// often, which costs where cores are shared with others.
constexpr int64_t kInputBytes = 256 * 1024;
// Up to here, for what it reads of all ranks together, every rank adds up everything: that saves a synchronisation.
constexpr int64_t kOneStepBytes = 256 * 1024;

using Nonce = std::array<std::byte, 32>;

constexpr int64_t RoundUp(int64_t value, int64_t to) {
  return (value + to - 1) / to * to;
}

// Offsets into the segment, in bytes.
struct Layout {
  explicit Layout(int world_size) : ranks(world_size) {}

  int64_t ResultBytes() const { return RoundUp(kInputBytes / ranks, kAlign) + kAlign; }
  int64_t HalfBytes() const { return kInputBytes + ResultBytes(); }
  int64_t SlotsAt() const { return kAlign; }
  int64_t HalfAt(int rank, uint32_t parity) const {
    const int64_t first = SlotsAt() + ranks * static_cast<int64_t>(sizeof(BarrierSlot));
    return RoundUp(first, 4096) + (2 * rank + parity) * HalfBytes();
  }
  size_t TotalBytes() const { return static_cast<size_t>(RoundUp(HalfAt(ranks, 0), 4096)); }

  const int ranks;
};

// Elements [begin, end).
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t count() const { return end - begin; }
};

struct NumberType {
  int64_t bytes;
  SumFunction sum;
};

NumberType NumberTypeOf(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return {sizeof(float), SumFloats};
    case at::kDouble:
      return {sizeof(double), SumDoubles};
    case at::kLong:
      return {sizeof(int64_t), SumInt64s};
    default:
      throw std::invalid_argument(std::string("all-reduce: not for numbers of type ") +
                                  c10::toString(tensor.scalar_type()));
  }
}

std::byte* BytesOf(const at::Tensor& tensor) {
  if (!tensor.is_contiguous() || !tensor.device().is_cpu())
    throw std::invalid_argument("collective call: the tensor must be contiguous and on the CPU");
  return static_cast<std::byte*>(tensor.data_ptr());
}

void Copy(std::byte* to, const std::byte* from, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

class SharedMemoryCollective : public Collective {
 public:
  SharedMemoryCollective(SharedSegment segment, std::vector<PeerProcess> peers, const CollectiveOptions& options)
      : segment_(std::move(segment)),
        layout_(options.world_size),
        options_(options),
        barrier_(reinterpret_cast<BarrierSlot*>(segment_.data() + layout_.SlotsAt()), options.rank, std::move(peers)),
        sources_(static_cast<size_t>(options.world_size)) {}

  int rank() const override { return options_.rank; }
  int world_size() const override { return options_.world_size; }
  std::string transport() const override { return "shared memory"; }

  void AllReduceSum(at::Tensor& tensor) override {
    const NumberType type = NumberTypeOf(tensor);
    std::byte* data = BytesOf(tensor);
    const int64_t count = tensor.numel();
    Run("all-reduce", [&] {
      if (count * type.bytes * world_size() <= kOneStepBytes) {
        ReduceInOneStep(data, count, type);
      } else {
        ReduceInPieces(data, count, type);
      }
    });
  }

  void AllReduceSumInPairs(at::Tensor& tensor) override { AllReduceSum(tensor); }

  void Broadcast(at::Tensor& tensor, int root) override {
    std::byte* data = BytesOf(tensor);
    const int64_t bytes = static_cast<int64_t>(tensor.nbytes());
    Run("broadcast", [&] {
      for (int64_t done = 0; done == 0 || done < bytes; done += kInputBytes) {
        const int64_t n = std::min(kInputBytes, bytes - done);
        if (rank() == root) Copy(Written(), data + done, n);
        Synchronise();
        if (rank() != root) Copy(data + done, Readable(root), n);
      }
    });
  }

  void Barrier() override {
    Run("barrier", [&] { Synchronise(); });
  }

  void Abort() override {
    barrier_.Abort();
    barrier_.Leave();  // calls of the peers that wait for this rank fail too
  }

 private:
  template <typename Body>
  void Run(const char* what, Body body) {
    const std::string place =
        "rank " + std::to_string(options_.rank) + " of " + std::to_string(options_.world_size) + ": " + what + ": ";
    if (barrier_.aborted()) throw CollectiveError(place + "aborted");
    if (broken_) throw CollectiveError(place + "an earlier call failed: " + *broken_);
    call_start_ = std::chrono::steady_clock::now();
    try {
      body();
    } catch (const BarrierError& error) {
      broken_ = error.what();
      barrier_.Leave();  // the peers need not wait for their timeout
      throw CollectiveError(place + error.what());
    }
  }

  void Synchronise() { barrier_.Synchronise(call_start_, options_.timeout); }

  // Of this rank, for what the peers shall see behind the next synchronisation.
  std::byte* Written() { return segment_.data() + layout_.HalfAt(rank(), (barrier_.stage() + 1) % 2); }
  // Of any rank, what it wrote before the last synchronisation.
  const std::byte* Readable(int peer) const { return segment_.data() + layout_.HalfAt(peer, barrier_.stage() % 2); }

  void ReduceInOneStep(std::byte* data, int64_t count, const NumberType& type) {
    Copy(Written(), data, count * type.bytes);
    Synchronise();
    for (int peer = 0; peer < world_size(); ++peer) sources_[static_cast<size_t>(peer)] = Readable(peer);
    if (count > 0) type.sum(sources_.data(), world_size(), count, data, nullptr);
  }

  // A chunk goes through three steps: every rank lays out what the others are to add; every rank adds up the piece that
  // is its own; every rank takes the sums of the others' pieces. Step k of chunk c happens together with step k + 1 of
  // chunk c - 1: one synchronisation for each chunk, and one more.
  void ReduceInPieces(std::byte* data, int64_t count, const NumberType& type) {
    const int64_t chunk = kInputBytes / type.bytes, chunks = (count + chunk - 1) / chunk;
    const auto range = [&](int64_t i) { return Range{i * chunk, std::min(count, (i + 1) * chunk)}; };
    for (int64_t i = 0; i <= chunks; ++i) {
      if (i >= 2) Gather(data, range(i - 2), type);
      if (i >= 1) ReduceOwnPiece(data, range(i - 1), type);
      if (i < chunks) LayOut(data, range(i), type);
      Synchronise();
    }
    Gather(data, range(chunks - 1), type);
  }

  // Which part of `chunk` a rank adds up.
  Range PieceOf(int owner, const Range& chunk, const NumberType& type) const {
    const int64_t share = (chunk.count() + world_size() - 1) / world_size();
    const int64_t piece = RoundUp(share * type.bytes, kAlign) / type.bytes;
    return {std::min(chunk.end, chunk.begin + owner * piece), std::min(chunk.end, chunk.begin + (owner + 1) * piece)};
  }

  void LayOut(const std::byte* data, const Range& chunk, const NumberType& type) {
    const Range own = PieceOf(rank(), chunk, type);
    for (const Range& part : {Range{chunk.begin, own.begin}, Range{own.end, chunk.end}}) {
      Copy(Written() + (part.begin - chunk.begin) * type.bytes, data + part.begin * type.bytes,
           part.count() * type.bytes);
    }
  }

  void ReduceOwnPiece(std::byte* data, const Range& chunk, const NumberType& type) {
    const Range own = PieceOf(rank(), chunk, type);
    std::byte* mine = data + own.begin * type.bytes;
    for (int peer = 0; peer < world_size(); ++peer) {
      sources_[static_cast<size_t>(peer)] =
          peer == rank() ? mine : Readable(peer) + (own.begin - chunk.begin) * type.bytes;
    }
    type.sum(sources_.data(), world_size(), own.count(), mine, Written() + kInputBytes);
  }

  void Gather(std::byte* data, const Range& chunk, const NumberType& type) {
    for (int peer = 0; peer < world_size(); ++peer) {
      if (peer == rank()) continue;
      const Range piece = PieceOf(peer, chunk, type);
      Copy(data + piece.begin * type.bytes, Readable(peer) + kInputBytes, piece.count() * type.bytes);
    }
  }

  const SharedSegment segment_;
  const Layout layout_;
  const CollectiveOptions options_;
  SharedBarrier barrier_;
  std::vector<const std::byte*> sources_;  // by rank, of one sum
  std::chrono::steady_clock::time_point call_start_;
  std::optional<std::string> broken_;  // why an earlier call failed
};

// ---- The meeting ----

constexpr char kNo[] = "-";

std::string Key(const char* what, int rank) {
  return std::string("shared_memory/") + what + "/" + std::to_string(rank);
}

// What all ranks have set under `what`, by rank.
std::vector<std::string> Collect(const NoticeBoard& board, const char* what, int world_size) {
  std::vector<std::string> texts;
  for (int rank = 0; rank < world_size; ++rank) texts.push_back(board.get(Key(what, rank)));
  return texts;
}

Nonce DrawNonce() {
  Nonce nonce;
  if (getrandom(nonce.data(), nonce.size(), 0) != static_cast<ssize_t>(nonce.size()))
    throw std::runtime_error("shared memory: getrandom");
  return nonce;
}

std::string Hex(const std::byte* bytes) {
  std::string text;
  for (size_t i = 0; i < sizeof(Nonce); ++i) {
    const int value = std::to_integer<int>(bytes[i]);
    text += "0123456789abcdef"[value / 16];
    text += "0123456789abcdef"[value % 16];
  }
  return text;
}

// Rank 0 makes the segment and tells where it is; kNo when it cannot.
std::optional<SharedSegment> CreateAndAnnounce(const NoticeBoard& board, const Layout& layout) {
  try {
    SharedSegment segment = SharedSegment::Create(layout.TotalBytes());
    const Nonce nonce = DrawNonce();
    std::memcpy(segment.data(), nonce.data(), nonce.size());
    for (int rank = 0; rank < layout.ranks; ++rank)
      new (segment.data() + layout.SlotsAt() + rank * static_cast<int64_t>(sizeof(BarrierSlot))) BarrierSlot{};
    board.set(Key("segment", 0), std::to_string(segment.fd()) + " " + Hex(nonce.data()));
    return segment;
  } catch (const std::system_error&) {
    board.set(Key("segment", 0), kNo);
    return std::nullopt;
  }
}

std::optional<SharedSegment> Attach(const NoticeBoard& board, pid_t owner, const Layout& layout) {
  std::istringstream words(board.get(Key("segment", 0)));
  int fd = -1;
  std::string nonce;
  if (!(words >> fd >> nonce)) return std::nullopt;
  try {
    SharedSegment segment = SharedSegment::Attach(owner, fd, layout.TotalBytes());
    if (Hex(segment.data()) != nonce) return std::nullopt;
    return segment;
  } catch (const std::runtime_error&) {  // another container, a /proc that hides it, ...
    return std::nullopt;
  }
}

}  // namespace

std::unique_ptr<Collective> MakeSharedMemoryCollective(const NoticeBoard& board, const CollectiveOptions& options) {
  const bool wanted = options.shared_memory && options.device.is_cpu();
  const ProcessIdentity own = wanted ? ProcessIdentity::Own() : ProcessIdentity();
  board.set(Key("process", options.rank), own.Encode());
  std::vector<ProcessIdentity> ranks;
  for (const std::string& text : Collect(board, "process", options.world_size))
    ranks.push_back(ProcessIdentity::Decode(text));
  // All ranks see the same texts here, and further down, and so decide alike.
  const auto is_neighbour = [&](const ProcessIdentity& other) {
    return !other.neighbourhood.empty() && other.neighbourhood == ranks.front().neighbourhood;
  };
  if (!std::all_of(ranks.begin(), ranks.end(), is_neighbour)) return nullptr;

  const Layout layout(options.world_size);
  std::optional<SharedSegment> segment =
      options.rank == 0 ? CreateAndAnnounce(board, layout) : Attach(board, ranks.front().pid, layout);
  board.set(Key("attached", options.rank), segment ? "yes" : kNo);
  const std::vector<std::string> attached = Collect(board, "attached", options.world_size);
  if (std::count(attached.begin(), attached.end(), "yes") != options.world_size) return nullptr;
  segment->CloseFile();
  std::vector<PeerProcess> peers;
  for (const ProcessIdentity& rank : ranks) peers.emplace_back(rank);
  auto group = std::make_unique<SharedMemoryCollective>(*std::move(segment), std::move(peers), options);
  group->Barrier();  // all have read the board: rank 0 may take it away
  return group;
}

}  // namespace sab::model
