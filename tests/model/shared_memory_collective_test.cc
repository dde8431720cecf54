#include "model/collective/shared_memory_collective.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <mutex>
#include <thread>

namespace sab::model {
namespace {

using ::testing::HasSubstr;

constexpr std::chrono::minutes kLong(10);  // beyond the time limit of the tests

// A board in this process.
class Board {
 public:
  void Set(const std::string& key, const std::string& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    texts_[key] = text;
    changed_.notify_all();
  }
  std::string Get(const std::string& key) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return texts_.count(key) != 0; });
    return texts_[key];
  }
  NoticeBoard View() {
    return {.set = [this](const std::string& key, const std::string& text) { Set(key, text); },
            .get = [this](const std::string& key) { return Get(key); }};
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> texts_;
};

// Runs `body` on one thread for each rank.
void OnThreads(int world_size, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
}

// Runs `body` as every rank of a group, one thread each.
void RunRanks(int world_size, const std::function<void(Collective&)>& body) {
  Board board;
  OnThreads(world_size, [&](int rank) {
    auto group = MakeSharedMemoryCollective(board.View(), {.rank = rank, .world_size = world_size, .timeout = kLong});
    ASSERT_NE(group, nullptr);
    body(*group);
  });
}

// The numbers of a rank in a call; not whole ones, so that the order of a sum shows.
at::Tensor Numbers(int64_t count, at::ScalarType type, int rank, int64_t call) {
  const at::Tensor numbers = at::sin(at::arange(count, at::kDouble) * (0.37 + rank) + static_cast<double>(call));
  return (numbers * (type == at::kLong ? 1e6 : 1.0)).to(type);
}

at::Tensor SumInPairs(int64_t count, at::ScalarType type, int world_size, int64_t call) {
  std::vector<at::Tensor> sums;
  for (int rank = 0; rank < world_size; ++rank) sums.push_back(Numbers(count, type, rank, call));
  while (sums.size() > 1) {
    std::vector<at::Tensor> pairs;
    for (size_t i = 0; i < sums.size(); i += 2) pairs.push_back(i + 1 < sums.size() ? sums[i] + sums[i + 1] : sums[i]);
    sums = pairs;
  }
  return sums[0];
}

class WorldSizes : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, WorldSizes, ::testing::Range(1, 6));

TEST_P(WorldSizes, SumsHaveTheBitsOfAPlainSumInPairs) {
  // Around what is worked on at a time (256 KiB), half and a quarter of it, and several of these.
  const std::vector<int64_t> counts = {0,     1,     7,     4097,  16384, 16385,  32767,
                                       32768, 32769, 65535, 65536, 65537, 131072, 200003};
  RunRanks(GetParam(), [&](Collective& group) {
    int64_t call = 0;
    for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kLong}) {
      for (const int64_t count : counts) {
        at::Tensor mine = Numbers(count, type, group.rank(), ++call);
        group.AllReduceSum(mine);
        EXPECT_TRUE(at::equal(mine, SumInPairs(count, type, group.world_size(), call)))
            << count << " of " << c10::toString(type);
      }
    }
  });
}

TEST_P(WorldSizes, CallsOfDifferentKindsFollowEachOther) {
  RunRanks(GetParam(), [](Collective& group) {
    for (int64_t call = 0; call < 300; ++call) {
      const int64_t count = call * call * 7 % 150011;
      at::Tensor mine = Numbers(count, at::kFloat, group.rank(), call);
      const int root = static_cast<int>(call % group.world_size());
      if (call % 3 == 0) {
        group.Broadcast(mine, root);
        ASSERT_TRUE(at::equal(mine, Numbers(count, at::kFloat, root, call))) << count;
      } else if (call % 7 == 0) {
        group.Barrier();
      } else {
        group.AllReduceSum(mine);
        ASSERT_TRUE(at::equal(mine, SumInPairs(count, at::kFloat, group.world_size(), call))) << count;
      }
    }
  });
}

TEST(SharedMemoryCollectiveTest, TenThousandCallsInARow) {
  RunRanks(3, [](Collective& group) {
    at::Tensor mine = at::zeros({100}, at::kLong);
    for (int64_t call = 0; call < 10000; ++call) {
      mine.fill_(call + group.rank());
      group.AllReduceSum(mine);
      ASSERT_EQ(mine[99].item<int64_t>(), 3 * call + 3);
    }
  });
}

TEST(SharedMemoryCollectiveTest, UnalignedTensorsAreSummed) {
  RunRanks(2, [](Collective& group) {
    at::Tensor mine = Numbers(50001, at::kFloat, group.rank(), 1).narrow(0, 1, 50000);
    group.AllReduceSum(mine);
    EXPECT_TRUE(at::equal(mine, SumInPairs(50001, at::kFloat, 2, 1).narrow(0, 1, 50000)));
  });
}

TEST(SharedMemoryCollectiveTest, ATypeThatIsNotSummedIsRefusedAndNothingBreaks) {
  RunRanks(2, [](Collective& group) {
    at::Tensor flags = at::ones({3}, at::kBool);
    EXPECT_THROW(group.AllReduceSum(flags), std::invalid_argument);
    group.Barrier();
  });
}

// What every rank of `world_size` was given when the board of rank 1 is `altered`.
std::vector<bool> WhoGotAGroup(int world_size, const std::function<NoticeBoard(Board&)>& altered) {
  Board board;
  std::vector<char> got(static_cast<size_t>(world_size));
  OnThreads(world_size, [&](int rank) {
    const NoticeBoard view = rank == 1 ? altered(board) : board.View();
    const CollectiveOptions options = {.rank = rank, .world_size = world_size, .timeout = kLong};
    got[static_cast<size_t>(rank)] = MakeSharedMemoryCollective(view, options) != nullptr;
  });
  return {got.begin(), got.end()};
}

TEST(SharedMemoryCollectiveTest, ARankElsewhereMeansNoGroupForAnyone) {
  const auto elsewhere = [](Board& board) {
    NoticeBoard view = board.View();
    view.set = [&board](const std::string& key, const std::string& text) {
      board.Set(key, key.find("/process/") != std::string::npos ? "another-boot/pid:[1]/0 17 4711" : text);
    };
    return view;
  };
  EXPECT_EQ(WhoGotAGroup(3, elsewhere), std::vector<bool>(3, false));
}

TEST(SharedMemoryCollectiveTest, ARankThatFindsAnotherFileMeansNoGroupForAnyone) {
  for (const std::string wrong : {"0 00", "9999 00", "-"}) {
    const auto misled = [&](Board& board) {
      NoticeBoard view = board.View();
      view.get = [&](const std::string& key) {
        const std::string text = board.Get(key);
        return key.find("/segment/") != std::string::npos ? wrong : text;
      };
      return view;
    };
    EXPECT_EQ(WhoGotAGroup(3, misled), std::vector<bool>(3, false)) << wrong;
  }
}

TEST(SharedMemoryCollectiveTest, ASegmentWithAnotherNonceMeansNoGroupForAnyone) {
  const auto misled = [](Board& board) {
    NoticeBoard view = board.View();
    view.get = [&board](const std::string& key) {
      std::string text = board.Get(key);
      if (key.find("/segment/") != std::string::npos) text.back() = text.back() == '0' ? '1' : '0';
      return text;
    };
    return view;
  };
  EXPECT_EQ(WhoGotAGroup(2, misled), std::vector<bool>(2, false));
}

// Files of this process that belong to a group: mapped ones, and open descriptors of any kind.
struct Traces {
  std::vector<std::string> mapped;
  int64_t open = 0;
};

Traces FindTraces() {
  Traces traces;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("sab-collective") != std::string::npos) traces.mapped.push_back(line.substr(line.find('/')));
  }
  traces.open = std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  return traces;
}

TEST(SharedMemoryCollectiveTest, TheSegmentHasNoNameAndGoesWithTheGroup) {
  const Traces before = FindTraces();
  RunRanks(2, [](Collective& group) {
    // Nothing that another program could open, or that could stay behind.
    for (const std::string& file : FindTraces().mapped) EXPECT_EQ(file, "/memfd:sab-collective (deleted)");
    group.Barrier();
  });
  const Traces after = FindTraces();
  EXPECT_TRUE(after.mapped.empty());
  EXPECT_EQ(after.open, before.open);
}

// A rank that is a process of its own: tests/model/collective_peer.cc.
class Peer {
 public:
  Peer(const std::string& address, int rank, int world_size, std::chrono::milliseconds timeout) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    const std::vector<std::string> words = {SAB_COLLECTIVE_PEER, address, std::to_string(rank),
                                            std::to_string(world_size), std::to_string(timeout.count())};
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      execv(arguments[0], arguments.data());
      _exit(127);
    }
    close(ends[1]);
    output_ = ends[0];
  }
  ~Peer() {
    Signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(output_);
  }
  void Signal(int number) const { kill(pid_, number); }
  // The next line that it prints, without its end.
  std::string Line() const {
    std::string text;
    for (char letter; read(output_, &letter, 1) == 1 && letter != '\n';) text += letter;
    return text;
  }

 private:
  pid_t pid_ = -1;
  int output_ = -1;
};

// Rank 0 in this process, the others outside.
class ProcessesTest : public ::testing::Test {
 protected:
  // `timeout`: of this rank; the others wait for long.
  void Start(int world_size, std::chrono::milliseconds timeout) {
    auto store = Rendezvous::Open("127.0.0.1");
    for (int rank = 1; rank < world_size; ++rank)
      peers_.push_back(std::make_unique<Peer>(store->address(), rank, world_size, kLong));
    for (const auto& peer : peers_) ASSERT_EQ(peer->Line(), "connected");
    group_ = MakeCollective(store, {.rank = 0, .world_size = world_size, .timeout = timeout});
    ASSERT_EQ(group_->transport(), "shared memory");
    at::Tensor numbers = at::ones({1000});
    for (int call = 0; call < 100; ++call) group_->AllReduceSum(numbers);
  }
  // Adds up until a call fails, and returns what it said.
  std::string AddUpUntilItFails() {
    at::Tensor numbers = at::ones({1000});
    try {
      while (true) group_->AllReduceSum(numbers);
    } catch (const CollectiveError& error) {
      return error.what();
    }
  }

  std::vector<std::unique_ptr<Peer>> peers_;  // of the ranks from 1
  std::unique_ptr<Collective> group_;
};

TEST_F(ProcessesTest, AKilledPeerIsNamedByAllTheOthersWithoutWaitingForTheTimeout) {
  Start(3, kLong);
  peers_[1]->Signal(SIGKILL);
  EXPECT_EQ(AddUpUntilItFails(), "rank 0 of 3: all-reduce: the process of rank 2 has ended");
  EXPECT_EQ(peers_[0]->Line(), "rank 1 of 3: all-reduce: the process of rank 2 has ended");
}

TEST_F(ProcessesTest, AStoppedPeerIsNamedWhenTheTimeoutIsOver) {
  Start(3, std::chrono::seconds(1));
  peers_[0]->Signal(SIGSTOP);
  EXPECT_EQ(AddUpUntilItFails(), "rank 0 of 3: all-reduce: no sign of rank 1 within 1000 ms");
  peers_[0]->Signal(SIGCONT);  // finds out that it is too late
  for (const auto& peer : peers_) EXPECT_THAT(peer->Line(), HasSubstr("all-reduce: rank 0 left the group"));
}

TEST_F(ProcessesTest, ACallAfterAFailureFailsAtOnceAndSaysWhy) {
  Start(2, kLong);
  peers_[0]->Signal(SIGKILL);
  AddUpUntilItFails();
  try {
    group_->Barrier();
    ADD_FAILURE() << "returned";
  } catch (const CollectiveError& error) {
    EXPECT_STREQ(error.what(), "rank 0 of 2: barrier: an earlier call failed: the process of rank 1 has ended");
  }
}

TEST_F(ProcessesTest, AbortEndsAWaitForAStoppedPeer) {
  Start(2, kLong);
  peers_[0]->Signal(SIGSTOP);
  auto failure = std::async(std::launch::async, [&] { return AddUpUntilItFails(); });
  group_->Abort();
  EXPECT_THAT(failure.get(), HasSubstr("aborted"));
}

}  // namespace
}  // namespace sab::model
