#include "model/tasks/task.h"

#include <algorithm>
#include <stdexcept>

#include "model/tasks/internal.h"

namespace sab::model {
namespace {

// Sets the tasks' numbers apart from those of parameters, which use the same seed.
constexpr uint64_t kTaskSalt = 0x7461736b64617461;
constexpr uint64_t kShuffleSalt = 0x73687566666c6573;

// A keyed permutation of 2^(2 * half_bits) numbers: a Feistel network of four rounds.
uint64_t Feistel(uint64_t value, int half_bits, const std::array<uint32_t, 2>& key, uint32_t epoch) {
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  uint64_t left = value >> half_bits, right = value & mask;
  for (uint32_t round = 0; round < 4; ++round) {
    const auto words =
        Philox4x32({static_cast<uint32_t>(right), static_cast<uint32_t>(right >> 32), round, epoch}, key);
    const uint64_t mixed = (left ^ words[0] ^ (static_cast<uint64_t>(words[1]) << 32)) & mask;
    left = right;
    right = mixed;
  }
  return (left << half_bits) | right;
}

}  // namespace

RowRange ShareOf(int64_t rows, int rank, int world_size) {
  const int64_t first = rows * rank / world_size;
  return {first, rows * (rank + 1) / world_size - first};
}

Random TrainingRandom(uint64_t seed, int64_t step, int64_t row) {
  return Random(seed ^ kTaskSalt, 2 * static_cast<uint64_t>(step), static_cast<uint32_t>(row));
}

Random EvaluationRandom(uint64_t seed, int64_t length, int64_t row) {
  return Random(seed ^ kTaskSalt, 2 * static_cast<uint64_t>(length) + 1, static_cast<uint32_t>(row));
}

int64_t ShuffledRow(uint64_t seed, int64_t position, int64_t rows) {
  const uint64_t count = static_cast<uint64_t>(rows);
  int half_bits = 1;
  while ((uint64_t{1} << (2 * half_bits)) < count) ++half_bits;
  const uint64_t salted = seed ^ kShuffleSalt;
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(salted), static_cast<uint32_t>(salted >> 32)};
  const uint32_t epoch = static_cast<uint32_t>(static_cast<uint64_t>(position) / count);
  uint64_t value = static_cast<uint64_t>(position) % count;
  do {  // walks along the cycle until it is back in range: less than four rounds on average
    value = Feistel(value, half_bits, key, epoch);
  } while (value >= count);
  return static_cast<int64_t>(value);
}

int64_t HeldOutRows(int64_t rows, const std::string& path) {
  const int64_t held_out = std::max<int64_t>(1, rows / 20);
  if (rows - held_out < 1) {
    throw std::invalid_argument("task.path '" + path + "': has " + std::to_string(rows) +
                                " rows, too few to hold some out for evaluation; give eval.path");
  }
  return held_out;
}

std::unique_ptr<Task> MakeTask(const TaskConfig& config) {
  switch (config.kind) {
    case TaskKind::kCopy:
      return MakeCopyTask(config);
    case TaskKind::kAdding:
      return MakeAddingTask(config);
    case TaskKind::kRecall:
      return MakeRecallTask(config);
    case TaskKind::kText:
      return MakeTextTask(config);
    case TaskKind::kImage:
      return MakeImageTask(config);
    case TaskKind::kTensor:
      return MakeTensorTask(config);
  }
  throw std::invalid_argument("task.kind: unknown");
}

}  // namespace sab::model
