#include "model/collective/collective.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <future>
#include <thread>

namespace sab::model {
namespace {

// As Collective asks of its process.
const auto kPipesIgnored = std::signal(SIGPIPE, SIG_IGN);

// Every implementation for CPU ranks; named by Collective::transport().
class CollectiveSuite : public ::testing::TestWithParam<std::string> {
 protected:
  std::vector<std::string> RunRanks(int world_size, const std::function<void(Collective&)>& body);
  // Of one rank of two.
  static CollectiveOptions Alone(int rank) {
    return {.rank = rank,
            .world_size = 2,
            .shared_memory = GetParam() == "shared memory",
            .timeout = std::chrono::minutes(30)};
  }
};

// Runs `body` as every rank of a group, one thread each. Returns what each rank threw ("" for nothing).
std::vector<std::string> CollectiveSuite::RunRanks(int world_size, const std::function<void(Collective&)>& body) {
  constexpr std::chrono::seconds timeout(20);
  auto store = Rendezvous::Open("127.0.0.1");
  std::vector<std::string> errors(static_cast<size_t>(world_size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        auto mine = rank == 0 ? store : Rendezvous::Connect(store->address(), timeout);
        auto group = MakeCollective(mine, {.rank = rank,
                                           .world_size = world_size,
                                           .shared_memory = GetParam() == "shared memory",
                                           .timeout = timeout});
        EXPECT_EQ(group->transport(), GetParam());
        body(*group);
      } catch (const std::exception& error) {
        errors[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

TEST_P(CollectiveSuite, AllReduceAddsUpOverRanksWithTheSameBitsEverywhere) {
  std::vector<at::Tensor> results(3);
  const auto errors = RunRanks(3, [&](Collective& group) {
    at::Tensor mine = at::sin(at::arange(5001) * (0.1f + static_cast<float>(group.rank())));
    group.AllReduceSum(mine);
    results[static_cast<size_t>(group.rank())] = mine;
  });
  EXPECT_EQ(errors, std::vector<std::string>(3));
  at::Tensor expected = at::zeros({5001});
  for (int rank = 0; rank < 3; ++rank) expected += at::sin(at::arange(5001) * (0.1f + static_cast<float>(rank)));
  EXPECT_TRUE(at::allclose(results[0], expected, 1e-5, 1e-6));
  EXPECT_TRUE(at::equal(results[0], results[1]));
  EXPECT_TRUE(at::equal(results[0], results[2]));
}

TEST_P(CollectiveSuite, SumsInPairsHaveTheBitsOfAPlainSumInPairs) {
  const auto number = [](int rank) { return at::sin(at::arange(5003) * (0.1f + static_cast<float>(rank))); };
  for (const int world_size : {1, 2, 3, 4}) {
    std::vector<at::Tensor> sums;
    for (int rank = 0; rank < world_size; ++rank) sums.push_back(number(rank));
    for (size_t span = 1; span < sums.size(); span *= 2) {
      for (size_t i = 0; i + span < sums.size(); i += 2 * span) sums[i] = sums[i] + sums[i + span];
    }
    const auto errors = RunRanks(world_size, [&](Collective& group) {
      at::Tensor mine = number(group.rank());
      group.AllReduceSumInPairs(mine);
      EXPECT_TRUE(at::equal(mine, sums[0])) << world_size << " ranks";
    });
    EXPECT_EQ(errors, std::vector<std::string>(static_cast<size_t>(world_size)));
  }
}

// More than is gathered at a time.
TEST_P(CollectiveSuite, SumsInPairsOfLargeTensorsAreWhole) {
  const auto errors = RunRanks(2, [](Collective& group) {
    at::Tensor mine = at::arange(5'000'001, at::kDouble) * (group.rank() + 1);
    group.AllReduceSumInPairs(mine);
    EXPECT_TRUE(at::equal(mine, at::arange(5'000'001, at::kDouble) * 3));
  });
  EXPECT_EQ(errors, std::vector<std::string>(2));
}

TEST_P(CollectiveSuite, BroadcastGivesEveryRankTheRootsTensor) {
  const auto errors = RunRanks(2, [](Collective& group) {
    at::Tensor mine = at::full({7}, static_cast<double>(group.rank()), at::kDouble);
    group.Broadcast(mine, 1);
    EXPECT_TRUE(at::equal(mine, at::ones({7}, at::kDouble)));
    group.Barrier();
  });
  EXPECT_EQ(errors, std::vector<std::string>(2));
}

TEST_P(CollectiveSuite, AbortReleasesABlockedRank) {
  std::promise<Collective*> blocked;
  std::promise<void> released;
  auto finished = released.get_future().share();
  std::promise<void> done;
  auto aborted = done.get_future().share();
  std::thread aborter([&] {
    blocked.get_future().get()->Abort();
    done.set_value();
  });
  const auto errors = RunRanks(2, [&](Collective& group) {
    group.Barrier();          // both have met
    if (group.rank() == 1) {  // never joins the call; stays until the other has left
      finished.wait();
      return;
    }
    at::Tensor mine = at::ones({4});
    blocked.set_value(&group);
    try {
      group.AllReduceSum(mine);
      ADD_FAILURE() << "returned";
    } catch (const CollectiveError& error) {
      EXPECT_NE(std::string(error.what()).find("aborted"), std::string::npos) << error.what();
    }
    EXPECT_THROW(group.Barrier(), CollectiveError);
    aborted.wait();  // the group outlives the call
    released.set_value();
  });
  aborter.join();
  EXPECT_EQ(errors, std::vector<std::string>(2));
}

// A survivor leaves a group whose other members live and do nothing, and takes part in another one at once.
TEST_P(CollectiveSuite, AnAbortedGroupIsGoneWithoutItsPeersHelpAndItsTensorCanBeUsedAgain) {
  auto store = Rendezvous::Open("127.0.0.1");
  std::promise<void> met, gone;
  auto finished = gone.get_future().share();
  std::thread idle([&] {
    auto mine = Rendezvous::Connect(store->address(), std::chrono::seconds(20));
    const auto group = MakeCollective(mine, Alone(1));
    met.set_value();
    finished.wait();
  });
  auto group = MakeCollective(store, Alone(0));
  met.get_future().wait();
  at::Tensor mine = at::ones({1000000});
  std::thread aborter([&] { group->Abort(); });
  EXPECT_THROW(group->AllReduceSum(mine), CollectiveError);
  aborter.join();
  group.reset();
  gone.set_value();
  mine.fill_(3);
  const auto again = MakeCollective(Rendezvous::Open("127.0.0.1"), {.rank = 0, .world_size = 1});
  again->AllReduceSum(mine);
  EXPECT_TRUE(at::equal(mine, at::full({1000000}, 3)));
  idle.join();
}

TEST_P(CollectiveSuite, APeerThatLeavesIsAnErrorNamingTheRank) {
  const auto errors = RunRanks(2, [](Collective& group) {
    if (group.rank() == 1) return;
    at::Tensor mine = at::ones({4});
    group.AllReduceSum(mine);
  });
  EXPECT_NE(errors[0].find("rank 0 of 2: all-reduce: "), std::string::npos) << errors[0];
}

INSTANTIATE_TEST_SUITE_P(Transports, CollectiveSuite, ::testing::Values("shared memory", "Gloo"),
                         [](const auto& info) { return info.param == "Gloo" ? "Gloo" : "SharedMemory"; });

TEST(CollectiveTest, OneRankWithoutSharedMemoryMeansGlooForAll) {
  auto store = Rendezvous::Open("127.0.0.1");
  const auto meet = [&](int rank) {
    auto mine = rank == 0 ? store : Rendezvous::Connect(store->address(), std::chrono::seconds(20));
    auto group = MakeCollective(mine, {.rank = rank, .world_size = 2, .shared_memory = rank == 0});
    group->Barrier();
    return group->transport();
  };
  auto other = std::async(std::launch::async, meet, 1);
  EXPECT_EQ(meet(0), "Gloo");
  EXPECT_EQ(other.get(), "Gloo");
}

TEST(CollectiveTest, APeerThatNeverComesIsAnErrorAfterTheTimeout) {
  auto store = Rendezvous::Open("127.0.0.1");
  EXPECT_THROW(MakeCollective(store, {.rank = 0, .world_size = 2, .meeting_timeout = std::chrono::milliseconds(300)}),
               CollectiveError);
}

TEST(CollectiveTest, AnAddressThatDoesNotAnswerIsNamed) {
  for (const char* address : {"127.0.0.1:1", "nonsense", "127.0.0.1:99999"}) {
    try {
      Rendezvous::Connect(address, std::chrono::milliseconds(200));
      ADD_FAILURE() << address;
    } catch (const CollectiveError& error) {
      EXPECT_NE(std::string(error.what()).find(address), std::string::npos) << error.what();
    }
  }
}

TEST(CollectiveTest, ASingleProcessIsItsOwnGroup) {
  auto group = MakeSingleProcessCollective();
  at::Tensor mine = at::ones({3});
  group->AllReduceSum(mine);
  EXPECT_TRUE(at::equal(mine, at::ones({3})));
  group->Abort();
  EXPECT_THROW(group->Barrier(), CollectiveError);
}

}  // namespace
}  // namespace sab::model
