// One rank of a group as a process of its own, for tests that stop and kill it:
//   collective_peer ADDRESS RANK WORLD_SIZE TIMEOUT_MS
// Prints "connected" when it has reached the rendezvous, adds up until a call fails, prints what it said, and ends.
#include <ATen/ops/ones.h>

#include <cstdio>
#include <cstdlib>

#include "model/collective/collective.h"

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const std::chrono::milliseconds timeout(std::atoi(argv[4]));
  try {
    auto rendezvous = sab::model::Rendezvous::Connect(argv[1], timeout);
    std::printf("connected\n");
    std::fflush(stdout);
    auto group =
        MakeCollective(rendezvous, {.rank = std::atoi(argv[2]), .world_size = std::atoi(argv[3]), .timeout = timeout});
    at::Tensor numbers = at::ones({1000});
    while (true) group->AllReduceSum(numbers);
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
  }
}
