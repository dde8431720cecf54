#include "model/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace sab::model {
namespace {

using Words = std::array<uint32_t, 4>;

// The vectors of Random123's kat_vectors file for philox4x32 with 10 rounds.
TEST(PhiloxTest, GivesThePublishedVectors) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(Philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomTest, IsThePhiloxStreamOfItsSeedStreamAndSubstream) {
  Random random(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3);
  const Words first = Philox4x32({0, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0});
  const Words second = Philox4x32({1, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0});
  for (uint32_t word : first) EXPECT_EQ(random.Word(), word);
  for (uint32_t word : second) EXPECT_EQ(random.Word(), word);
}

TEST(RandomTest, StreamsSubstreamsAndSeedsDiffer) {
  const uint64_t base = Random(1, 2, 3).Word64();
  EXPECT_EQ(Random(1, 2, 3).Word64(), base);
  EXPECT_NE(Random(2, 2, 3).Word64(), base);
  EXPECT_NE(Random(1, 3, 3).Word64(), base);
  EXPECT_NE(Random(1, 2, 4).Word64(), base);
  EXPECT_NE(Random(uint64_t{1} << 40, 2, 3).Word64(), Random(0, 2, 3).Word64());
}

TEST(RandomTest, UniformFillsTheUnitIntervalEvenly) {
  Random random(7);
  const int n = 100000;
  double sum = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double u = i % 2 ? random.Uniform() : random.UniformFloat();
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.005);
  EXPECT_NEAR(squares / n, 1.0 / 3, 0.005);
}

TEST(RandomTest, BelowGivesEveryNumberEquallyOften) {
  Random random(11);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts.at(random.Below(7));
  for (int count : counts) EXPECT_NEAR(count, 10000, 400);
  EXPECT_EQ(random.Below(1), 0u);
}

TEST(RandomTest, BelowIsUnbiasedForLargeRanges) {
  // Taking the remainder of a 64-bit word would give the lower half of this range twice as often.
  Random random(12);
  const uint64_t n = 0xC000000000000000;
  int low = 0;
  for (int i = 0; i < 30000; ++i) low += random.Below(n) < n / 3;
  EXPECT_NEAR(low, 10000, 350);
}

TEST(RandomTest, NormalHasTheMomentsOfANormal) {
  Random random(13);
  const int n = 200000;
  double sum = 0, squares = 0, fourth = 0;
  int beyond_two = 0;
  for (int i = 0; i < n; ++i) {
    const double x = random.Normal();
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
    beyond_two += std::abs(x) > 2;
  }
  EXPECT_NEAR(sum / n, 0, 0.01);
  EXPECT_NEAR(squares / n, 1, 0.02);
  EXPECT_NEAR(fourth / n, 3, 0.1);
  EXPECT_NEAR(beyond_two / double{n}, 0.0455, 0.003);
}

TEST(HashBytesTest, IsFnv1a) {
  EXPECT_EQ(HashBytes("", 0), 0xcbf29ce484222325u);
  EXPECT_EQ(HashBytes("a", 1), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(HashBytes("foobar", 6), 0x85944171f73967e8u);
}

}  // namespace
}  // namespace sab::model
