#include "worker/agent/inventory.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/util/temp_dir.h"

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
  EXPECT_EQ((*slots)[2].memory_bytes(), 20);  // all but a sixteenth, in three
}

TEST(InventoryTest, CpuSlotsShareWhatTheTrainersMayUse) {
  Machine machine;
  machine.memory_bytes = int64_t{16} << 30;
  const auto memory = [&](const std::string& wish) {
    return 2 * (*MakeSlots(machine, {.cpu_slots = 2, .memory = wish}))[0].memory_bytes();
  };
  EXPECT_EQ(memory(""), int64_t{15} << 30);
  EXPECT_EQ(memory("12GiB"), int64_t{12} << 30);
  EXPECT_NEAR(static_cast<double>(memory("50%")), 8.0 * (1 << 30), 200);
  EXPECT_EQ(memory("0"), 0);
  int64_t all = 0;
  for (const v1::Slot& slot : *MakeSlots(machine, {.cpu_slots = 7, .memory = "12GiB"})) all += slot.memory_bytes();
  EXPECT_EQ(all, int64_t{12} << 30);
  for (const char* wish : {"12", "0%", "101%", "half", "-1GiB"}) {
    const auto slots = MakeSlots(machine, {.memory = wish});
    ASSERT_FALSE(slots.ok()) << wish;
    EXPECT_THAT(std::string(slots.status().message()), HasSubstr("--memory"));
  }
}

TEST(InventoryTest, TheTightestControlGroupLimitsTheMemory) {
  testing_util::TempDir dir;
  std::filesystem::create_directories(dir.path() + "/a/b");
  EXPECT_EQ(LimitedMemory(1000, dir.path(), "/a/b"), 1000);
  std::ofstream(dir.path() + "/a/memory.max") << "600\n";
  std::ofstream(dir.path() + "/a/b/memory.max") << "max\n";
  EXPECT_EQ(LimitedMemory(1000, dir.path(), "/a/b"), 600);
  EXPECT_EQ(LimitedMemory(1000, dir.path(), "/"), 1000);
  std::ofstream(dir.path() + "/memory.limit_in_bytes") << "500\n";
  EXPECT_EQ(LimitedMemory(1000, dir.path(), "/a/b"), 500);
  EXPECT_EQ(LimitedMemory(1000, dir.path(), "/elsewhere/unseen"), 500);
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
