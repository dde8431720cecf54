// Passes of the fused engine that are left at every place where they can be, and taken up by another engine.
#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/flip.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <vector>

#include "model/fast/fast_engine.h"
#include "model/save_points.h"
#include "tests/model/fast_cases.h"

namespace sab::model {
namespace {

class OneThread : public testing::Environment {
 public:
  void SetUp() override { at::set_num_threads(1); }
};
const auto* const kOneThread = testing::AddGlobalTestEnvironment(new OneThread);

// Keeps states in memory; makes every pass leave at the first place where it can.
class Everywhere : public SavePoints {
 public:
  void BeginUpdate(Update) override {}
  void BeginPart(int64_t) override {}
  void EndUpdate() override {}
  bool stopping() const override { return true; }
  bool Due(int) override { return true; }
  bool IsLong() override { return false; }
  void Save(int, const Block& block, const Position& position) override {
    Kept& kept = kept_[block.block];
    if (kept.identity != block.identity) kept = {.identity = block.identity, .cursor = {}, .grown = {}, .rest = {}};
    const int64_t from = kept.grown.empty() ? 0 : kept.grown.back().first;
    if (block.grown && position.grown_to > from)
      kept.grown.emplace_back(position.grown_to, Copy(block.grown(from, position.grown_to)));
    kept.rest = Copy(block.rest(position.cursor));
    kept.cursor = position.cursor;
    ++saves;
  }
  bool Has(int64_t block) override { return kept_.contains(block); }
  Numbers Load(const Block& block) override {
    const Kept& kept = kept_.at(block.block);
    if (kept.identity != block.identity) return {};
    int64_t from = 0;
    for (const auto& [to, bytes] : kept.grown) {
      Fill(block.grown(from, to), bytes);
      from = to;
    }
    Fill(block.rest(kept.cursor), kept.rest);
    ++loads;
    return kept.cursor;
  }

  int saves = 0, loads = 0;

 private:
  using Bytes = std::vector<char>;
  struct Kept {
    std::string identity;
    Numbers cursor;
    std::vector<std::pair<int64_t, Bytes>> grown;
    Bytes rest;
  };
  static Bytes Copy(const std::vector<SavedPiece>& pieces) {
    Bytes bytes;
    for (const SavedPiece& piece : pieces)
      bytes.insert(bytes.end(), static_cast<char*>(piece.data), static_cast<char*>(piece.data) + piece.bytes);
    return bytes;
  }
  static void Fill(const std::vector<SavedPiece>& pieces, const Bytes& bytes) {
    size_t at = 0;
    for (const SavedPiece& piece : pieces) {
      ASSERT_LE(at + piece.bytes, bytes.size());
      std::memcpy(piece.data, bytes.data() + at, piece.bytes);
      at += piece.bytes;
    }
    ASSERT_EQ(at, bytes.size());
  }

  std::map<int64_t, Kept> kept_;
};

class FastSavePoints : public testing::TestWithParam<FastCase> {};

TEST_P(FastSavePoints, APassThatIsLeftAtEveryPlaceGivesTheSameBits) {
  const FastCase& c = GetParam();
  const Batch batch = MakeBatch(c);
  Batch other = batch;
  other.inputs = at::flip(batch.inputs, {0, 1});
  ParameterSet parameters = MakeParameters(c);
  const Outcome expected = RunStep(*MakeFastEngine(c.config, c.shape, parameters), parameters, batch);
  Everywhere points;
  Outcome outcome;
  for (bool done = false; !done;) {
    const std::unique_ptr<Engine> engine = MakeFastEngine(c.config, c.shape, parameters);
    RunStep(*engine, parameters, other);  // its memory is not that of a pass that was never left
    ASSERT_TRUE(engine->SetSavePoints(&points));
    const int before = points.saves;
    try {
      outcome = RunStep(*engine, parameters, batch);
      done = true;
    } catch (const PassStopped&) {
      ASSERT_GT(points.saves, before);
    }
  }
  EXPECT_GE(points.loads, points.saves > 0 ? 1 : 0);
  EXPECT_TRUE(at::equal(outcome.gradients, expected.gradients));
  EXPECT_EQ(outcome.sums.loss_sum, expected.sums.loss_sum);
  EXPECT_EQ(outcome.sums.guarded_count, expected.sums.guarded_count);
  EXPECT_EQ(outcome.sums.max_hidden_norm, expected.sums.max_hidden_norm);
}

// Those with save points, long enough for several chunks, with and without recompute.
std::vector<FastCase> Long() {
  std::vector<FastCase> cases;
  for (const std::vector<FastCase>& some : {Settings(), Controls()})
    for (FastCase c : some) {
      if (c.config.kind == Kind::kAttention || c.config.hidden_size > 100) continue;
      c.rows = std::max<int64_t>(c.rows, 11);
      c.steps = std::max<int64_t>(c.steps, 300);
      for (const Recompute recompute : {Recompute::kOff, Recompute::kOn}) {
        c.config.recompute = recompute;
        cases.push_back(c);
        cases.back().name += recompute == Recompute::kOn ? "_again" : "_kept";
      }
    }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Long, FastSavePoints, testing::ValuesIn(Long()), CaseName);

TEST(FastSavePoints, OfOtherParametersOrDataAreNotGoneOnFrom) {
  const FastCase c = Case("one", [](FastCase& one) { one.steps = 300, one.rows = 8; });
  Everywhere points;
  ParameterSet parameters = MakeParameters(c);
  const std::unique_ptr<Engine> engine = MakeFastEngine(c.config, c.shape, parameters);
  engine->SetSavePoints(&points);
  const Batch batch = MakeBatch(c);
  Batch other = batch;
  other.inputs = at::flip(batch.inputs, {1});
  EXPECT_THROW(RunStep(*engine, parameters, batch), PassStopped);
  EXPECT_THROW(RunStep(*engine, parameters, other), PassStopped);
  EXPECT_EQ(points.loads, 0);
  EXPECT_THROW(RunStep(*engine, parameters, other), PassStopped);
  EXPECT_EQ(points.loads, 1);
  parameters.values().mul_(0.5);
  EXPECT_THROW(RunStep(*engine, parameters, other), PassStopped);
  EXPECT_EQ(points.loads, 1);
}

}  // namespace
}  // namespace sab::model
