#include "model/cuda/emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

namespace sab::model::cuda::emulator {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr int kWarpLanes = 32;
constexpr size_t kGuardBytes = 256;
constexpr char kFill = '\xff';  // NaN in every floating-point type

struct Fiber;

struct Barrier {
  int members = 0;
  std::vector<Fiber*> waiting;
};

struct WarpState {
  Barrier barrier;
  uint64_t values[2][kWarpLanes] = {};
};

struct BlockState {
  int index = 0;
  Barrier barrier;
  std::vector<WarpState> warps;
  std::unique_ptr<char[]> memory;
  char* shared = nullptr;
};

struct Fiber {
  BlockState* block = nullptr;
  int thread = 0;
  int exchanges = 0;
  bool started = false;
  bool finished = false;
  ucontext_t start;
  jmp_buf resume;
  std::unique_ptr<char[]> stack;
};

// What one group of blocks runs in. Stacks are kept from run to run.
struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<BlockState> blocks;
  Barrier group;
  std::vector<Fiber*> ready;
  int threads = 0;
  const std::function<void()>* kernel = nullptr;
  Fiber* current = nullptr;
  jmp_buf scheduler;
};

Machine& TheMachine() {
  static Machine machine;
  return machine;
}

// _setjmp and _longjmp, unlike swapcontext, make no system call.
void Yield() {
  Machine& machine = TheMachine();
  if (_setjmp(machine.current->resume) == 0) _longjmp(machine.scheduler, 1);
}

void Enter() {
  Machine& machine = TheMachine();
  (*machine.kernel)();
  machine.current->finished = true;
  _longjmp(machine.scheduler, 1);
}

__attribute__((noinline)) void Resume(Fiber* fiber) {
  Machine& machine = TheMachine();
  machine.current = fiber;
  if (_setjmp(machine.scheduler) != 0) return;
  if (fiber->started) _longjmp(fiber->resume, 1);
  fiber->started = true;
  setcontext(&fiber->start);
}

void Wait(Barrier* barrier) {
  Machine& machine = TheMachine();
  if (static_cast<int>(barrier->waiting.size()) + 1 == barrier->members) {
    machine.ready.insert(machine.ready.end(), barrier->waiting.begin(), barrier->waiting.end());
    barrier->waiting.clear();
    return;
  }
  barrier->waiting.push_back(machine.current);
  Yield();
}

void StartBlocks(const Grid& grid, int first) {
  Machine& machine = TheMachine();
  machine.blocks = std::vector<BlockState>(static_cast<size_t>(grid.group));
  machine.group = Barrier{grid.group * grid.threads, {}};
  machine.ready.clear();
  for (int b = 0; b < grid.group; ++b) {
    BlockState& block = machine.blocks[static_cast<size_t>(b)];
    block.index = first + b;
    block.barrier.members = grid.threads;
    block.warps.resize(static_cast<size_t>(grid.threads / kWarpLanes));
    for (WarpState& warp : block.warps) warp.barrier.members = kWarpLanes;
    const size_t bytes = grid.shared_bytes + kGuardBytes;
    block.memory = std::make_unique<char[]>(bytes + 128);
    block.shared = block.memory.get() + 128 - reinterpret_cast<uintptr_t>(block.memory.get()) % 128;
    std::memset(block.shared, kFill, bytes);
  }
}

void StartFibers(const Grid& grid) {
  Machine& machine = TheMachine();
  const size_t count = static_cast<size_t>(grid.group) * static_cast<size_t>(grid.threads);
  while (machine.fibers.size() < count) {
    machine.fibers.push_back(std::make_unique<Fiber>());
    machine.fibers.back()->stack = std::make_unique<char[]>(kStackBytes);
  }
  for (size_t i = 0; i < count; ++i) {
    Fiber& fiber = *machine.fibers[i];
    fiber.block = &machine.blocks[i / static_cast<size_t>(grid.threads)];
    fiber.thread = static_cast<int>(i % static_cast<size_t>(grid.threads));
    fiber.exchanges = 0;
    fiber.started = fiber.finished = false;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStackBytes;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, Enter, 0);
    machine.ready.push_back(&fiber);
  }
}

// Until all have finished.
void TakeTurns(size_t count) {
  Machine& machine = TheMachine();
  size_t finished = 0;
  uint32_t random = 1;
  while (!machine.ready.empty()) {
    random = random * 1664525 + 1013904223;  // Numerical Recipes' generator
    std::swap(machine.ready[(random >> 8) % machine.ready.size()], machine.ready.back());
    Fiber* fiber = machine.ready.back();
    machine.ready.pop_back();
    Resume(fiber);
    finished += fiber->finished;
  }
  if (finished < count) throw std::logic_error("kernel: threads wait for each other for ever");
}

void CheckGuards(size_t shared_bytes) {
  for (const BlockState& block : TheMachine().blocks) {
    const char* guard = block.shared + shared_bytes;
    if (std::any_of(guard, guard + kGuardBytes, [](char c) { return c != kFill; }))
      throw std::logic_error("kernel: wrote beyond its shared memory");
  }
}

}  // namespace

void Run(const Grid& grid, const std::function<void()>& kernel) {
  if (grid.threads % kWarpLanes != 0 || grid.blocks % grid.group != 0) throw std::logic_error("kernel: bad grid");
  Machine& machine = TheMachine();
  machine.threads = grid.threads;
  machine.kernel = &kernel;
  for (int first = 0; first < grid.blocks; first += grid.group) {
    StartBlocks(grid, first);
    StartFibers(grid);
    TakeTurns(static_cast<size_t>(grid.group) * static_cast<size_t>(grid.threads));
    CheckGuards(grid.shared_bytes);
  }
}

int Thread() {
  return TheMachine().current->thread;
}

int Threads() {
  return TheMachine().threads;
}

int BlockIndex() {
  return TheMachine().current->block->index;
}

char* SharedMemory() {
  return TheMachine().current->block->shared;
}

void SyncBlock() {
  Wait(&TheMachine().current->block->barrier);
}

void SyncGroup() {
  Wait(&TheMachine().group);
}

// Two places in turn: a lane cannot come to the next but one exchange before all have left this one.
const uint64_t* ExchangeInWarp(uint64_t value) {
  Fiber* fiber = TheMachine().current;
  WarpState& warp = fiber->block->warps[static_cast<size_t>(fiber->thread / kWarpLanes)];
  uint64_t* values = warp.values[fiber->exchanges++ % 2];
  values[fiber->thread % kWarpLanes] = value;
  Wait(&warp.barrier);
  return values;
}

}  // namespace sab::model::cuda::emulator
