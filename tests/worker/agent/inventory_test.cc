#include "worker/agent/inventory.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sab::agent {
namespace {

using ::testing::HasSubstr;

Machine WithGpus() {
  Machine machine;
  machine.cores = 8;
  machine.memory_bytes = 64;
  machine.gpus = {{"H100", "GPU-aaaa", 80}, {"H100", "GPU-bbbb", 80}, {"T4", "GPU-cccc", 16}};
  return machine;
}

TEST(InventoryTest, WithoutGpusTheCpuIsDividedIntoSlots) {
  Machine machine;
  machine.cores = 8;
  machine.memory_bytes = 64;
  const auto slots = MakeSlots(machine, {.cpu_slots = 3});
  ASSERT_TRUE(slots.ok());
  ASSERT_EQ(slots->size(), 3);
  EXPECT_EQ((*slots)[2].index(), 2);
  EXPECT_EQ((*slots)[2].device(), "cpu");
  EXPECT_EQ((*slots)[2].threads(), 2);
  EXPECT_EQ((*slots)[2].memory_bytes(), 21);
}

TEST(InventoryTest, ASlotHasAtLeastOneThread) {
  Machine machine;
  machine.cores = 1;
  EXPECT_EQ((*MakeSlots(machine, {.cpu_slots = 4}))[0].threads(), 1);
  EXPECT_EQ((*MakeSlots(machine, {.cpu_slots = 4, .threads = 7}))[0].threads(), 7);
}

TEST(InventoryTest, EveryGpuIsASlotAndCpuSlotsAreNot) {
  const auto slots = MakeSlots(WithGpus(), {.cpu_slots = 5});
  ASSERT_EQ(slots->size(), 3);
  EXPECT_EQ((*slots)[2].device(), "cuda");
  EXPECT_EQ((*slots)[2].device_index(), 2);
  EXPECT_EQ((*slots)[2].device_name(), "T4");
  EXPECT_EQ((*slots)[2].memory_bytes(), 16);
}

TEST(InventoryTest, DeviceCpuLeavesGpusAlone) {
  EXPECT_EQ((*MakeSlots(WithGpus(), {.cpu_slots = 1, .device = "cpu"}))[0].device(), "cpu");
}

TEST(InventoryTest, DeviceCudaWithoutGpusIsRefused) {
  const auto slots = MakeSlots(Machine(), {.device = "cuda"});
  EXPECT_EQ(slots.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(slots.status().message()), HasSubstr("--device cpu"));
}

TEST(InventoryTest, CudaVisibleDevicesChoosesAndOrders) {
  Machine machine = WithGpus();
  machine.cuda_visible_devices = "2,GPU-a";
  const auto slots = MakeSlots(machine, {});
  ASSERT_EQ(slots->size(), 2);
  EXPECT_EQ((*slots)[0].device_name(), "T4");
  EXPECT_EQ((*slots)[0].device_index(), 0);
  EXPECT_EQ((*slots)[1].device_name(), "H100");
  EXPECT_EQ((*slots)[1].device_index(), 1);
}

TEST(InventoryTest, AnInvalidIndexHidesWhatFollowsAndAnEmptyListHidesAll) {
  Machine machine = WithGpus();
  machine.cuda_visible_devices = "1,9,0";
  EXPECT_EQ(MakeSlots(machine, {})->size(), 1);
  machine.cuda_visible_devices = "";
  EXPECT_EQ((*MakeSlots(machine, {}))[0].device(), "cpu");
}

TEST(InventoryTest, TowardsLoopbackThisHostIsLoopback) {
  EXPECT_EQ(*LocalAddressTowards("127.0.0.1:50051"), "127.0.0.1");
  EXPECT_EQ(*LocalAddressTowards("localhost:50051"), "127.0.0.1");
  EXPECT_EQ(LocalAddressTowards("nocolon").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(InventoryTest, ThisMachineHasCoresAndMemory) {
  const Machine machine = ExamineMachine();
  EXPECT_GE(machine.cores, 1);
  EXPECT_GT(machine.memory_bytes, 0);
}

}  // namespace
}  // namespace sab::agent
