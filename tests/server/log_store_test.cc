#include "server/store/log_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/util/temp_dir.h"

namespace sab::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing_util::TempDir;

const JobId kJob("j");

std::vector<v1::LogLine> Lines(const std::vector<std::string>& texts) {
  std::vector<v1::LogLine> lines;
  for (const std::string& text : texts) lines.emplace_back().set_text(text);
  return lines;
}

class LogStoreTest : public ::testing::Test {
 protected:
  std::vector<std::string> Read(LogStore& store, LogCursor* cursor, std::optional<int32_t> rank = {}) {
    std::vector<std::string> texts;
    for (bool end = false; !end;) {
      std::vector<v1::LogLine> lines;
      end = *store.Read(kJob, rank, cursor, &lines);
      for (const auto& line : lines) texts.push_back(line.text());
    }
    return texts;
  }
  std::vector<std::string> ReadAll(LogStore& store, std::optional<int32_t> rank = {}) {
    LogCursor cursor;
    return Read(store, &cursor, rank);
  }
  std::string folder() const { return dir_.path() + "/logs"; }

  TempDir dir_;
};

TEST_F(LogStoreTest, LinesComeBackInOrderOfArrivalAndByRank) {
  LogStore store(folder());
  ASSERT_TRUE(store.Append(kJob, 1, 0, 0, Lines({"a", "b"})).ok());
  ASSERT_TRUE(store.Append(kJob, 1, 1, 0, Lines({"c"})).ok());
  ASSERT_TRUE(store.Append(kJob, 1, 0, 2, Lines({"d"})).ok());
  EXPECT_THAT(ReadAll(store), ElementsAre("a", "b", "c", "d"));
  EXPECT_THAT(ReadAll(store, 0), ElementsAre("a", "b", "d"));
}

TEST_F(LogStoreTest, RepeatedLinesAreDroppedEvenAfterReopening) {
  {
    LogStore store(folder());
    ASSERT_TRUE(store.Append(kJob, 1, 0, 0, Lines({"a", "b"})).ok());
    ASSERT_TRUE(store.Append(kJob, 1, 0, 1, Lines({"b", "c"})).ok());
  }
  LogStore store(folder());
  ASSERT_TRUE(store.Append(kJob, 1, 0, 0, Lines({"a", "b", "c", "d"})).ok());
  EXPECT_THAT(ReadAll(store), ElementsAre("a", "b", "c", "d"));
}

TEST_F(LogStoreTest, ALineTornByACrashIsCutOff) {
  {
    LogStore store(folder());
    ASSERT_TRUE(store.Append(kJob, 1, 0, 0, Lines({"a"})).ok());
  }
  std::ofstream(folder() + "/j/0.log", std::ios::app) << "1\t0\t1\thalf";
  LogStore store(folder());
  ASSERT_TRUE(store.Append(kJob, 1, 0, 1, Lines({"b"})).ok());
  EXPECT_THAT(ReadAll(store), ElementsAre("a", "b"));
}

TEST_F(LogStoreTest, AReaderGoesOnWhereItWas) {
  LogStore store(folder());
  LogCursor cursor;
  EXPECT_THAT(Read(store, &cursor), IsEmpty());
  ASSERT_TRUE(store.Append(kJob, 1, 0, 0, Lines({"a"})).ok());
  EXPECT_THAT(Read(store, &cursor), ElementsAre("a"));
  ASSERT_TRUE(store.Append(kJob, 1, 0, 1, Lines({"b"})).ok());
  EXPECT_THAT(Read(store, &cursor), ElementsAre("b"));
}

TEST_F(LogStoreTest, TailGivesTheLastLines) {
  LogStore store(folder());
  ASSERT_TRUE(store.Append(kJob, 1, 0, 0, Lines({"a", "b", "c"})).ok());
  ASSERT_TRUE(store.Append(kJob, 1, 1, 0, Lines({"x"})).ok());
  LogCursor cursor = *store.Tail(kJob, std::nullopt, 2);
  EXPECT_THAT(Read(store, &cursor), ElementsAre("c", "x"));
  cursor = *store.Tail(kJob, 0, 2);
  EXPECT_THAT(Read(store, &cursor, 0), ElementsAre("b", "c"));
}

TEST_F(LogStoreTest, TheFirstAndTheLastLinesOfALongLogAreKept) {
  LogStore store(folder(), {.head_bytes = 200, .segment_bytes = 1000});
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(store.Append(kJob, 1, 0, i, Lines({absl::StrCat("line ", i)})).ok());
  const auto texts = ReadAll(store);
  EXPECT_EQ(texts.front(), "line 0");
  EXPECT_EQ(texts.back(), "line 999");
  uintmax_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder() + "/j")) bytes += entry.file_size();
  EXPECT_LE(bytes, 2200u);
}

TEST_F(LogStoreTest, ASlowReaderSkipsWhatHasBeenDropped) {
  LogStore store(folder(), {.head_bytes = 100, .segment_bytes = 300});
  ASSERT_TRUE(store.Append(kJob, 1, 0, 0, Lines({"first"})).ok());
  LogCursor cursor;
  Read(store, &cursor);
  for (int i = 1; i < 500; ++i) ASSERT_TRUE(store.Append(kJob, 1, 0, i, Lines({absl::StrCat("line ", i)})).ok());
  EXPECT_EQ(Read(store, &cursor).back(), "line 499");
}

TEST_F(LogStoreTest, NewlinesAndOverlongTextsAreTamed) {
  LogStore store(folder());
  ASSERT_TRUE(store.Append(kJob, 1, 0, 0, Lines({"a\nb", std::string(20000, 'x')})).ok());
  const auto texts = ReadAll(store);
  EXPECT_EQ(texts[0], "a b");
  EXPECT_EQ(texts[1].size(), 8192u);
}

}  // namespace
}  // namespace sab::server
