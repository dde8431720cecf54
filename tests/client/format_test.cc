#include "client/cli/format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "client/cli/chart.h"
#include "common/base/memory_sizes.h"

namespace sab::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(DurationTest, ReadsSecondsMinutesAndSums) {
  EXPECT_EQ(*ParseDuration("40s"), absl::Seconds(40));
  EXPECT_EQ(*ParseDuration("5m"), absl::Minutes(5));
  EXPECT_EQ(*ParseDuration("1h30m"), absl::Minutes(90));
  EXPECT_EQ(*ParseDuration("500ms"), absl::Milliseconds(500));
}

TEST(DurationTest, RefusesWhatIsNoDuration) {
  for (const char* text : {"", "40", "-5s", "s", "5 minutes", "inf", "1e400h", "nan"}) {
    EXPECT_EQ(ParseDuration(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_THAT(std::string(ParseDuration("40").status().message()), HasSubstr("40s"));
}

TEST(DurationTest, IsShownInTwoUnitsAtMost) {
  EXPECT_EQ(ShortDuration(absl::Milliseconds(850)), "850ms");
  EXPECT_EQ(ShortDuration(absl::Milliseconds(2400)), "2.4s");
  EXPECT_EQ(ShortDuration(absl::Seconds(40)), "40s");
  EXPECT_EQ(ShortDuration(absl::Seconds(144)), "2m24s");
  EXPECT_EQ(ShortDuration(absl::Minutes(65)), "1h05m");
  EXPECT_EQ(ShortDuration(absl::Hours(76)), "3d04h");
  EXPECT_EQ(ShortDuration(absl::InfiniteDuration()), "-");
  EXPECT_EQ(ShortDuration(absl::Seconds(-1)), "-");
}

TEST(BytesTest, AreShownInBinaryUnits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(FormatBytes(int64_t{5} << 30), "5.0 GiB");
}

TEST(NumberTest, JsonTextReadsBackAsTheSameNumber) {
  for (double value : {0.1, 1e-300, 123456789.125, -0.0, 1.0 / 3}) {
    EXPECT_EQ(std::strtod(JsonNumber(value).c_str(), nullptr), value);
  }
}

TEST(NumberTest, JsonHasStringsForWhatIsNotFinite) {
  EXPECT_EQ(JsonNumber(std::nan("")), "\"NaN\"");
  EXPECT_EQ(JsonNumber(std::numeric_limits<double>::infinity()), "\"Infinity\"");
  EXPECT_EQ(JsonNumber(-std::numeric_limits<double>::infinity()), "\"-Infinity\"");
}

v1::Job SomeJob() {
  v1::Job job;
  job.set_name("jobs/abc");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.set_attempt_count(2);
  job.mutable_spec()->set_name("yes");
  job.mutable_spec()->mutable_model()->set_kind(v1::MODEL_KIND_LSTM);
  return job;
}

TEST(JsonTest, HasTheProtosFieldNamesAndEveryFieldOfTheJob) {
  const std::string json = ToJson(SomeJob());
  EXPECT_THAT(json, HasSubstr("\"attempt_count\": \"2\""));
  EXPECT_THAT(json, HasSubstr("\"state\": \"JOB_STATE_RUNNING\""));
  EXPECT_THAT(json, HasSubstr("\"step\": \"0\""));
}

TEST(JsonTest, OfASpecHasOnlyWhatIsSet) {
  const std::string json = ToJson(SomeJob());
  EXPECT_THAT(json, HasSubstr("MODEL_KIND_LSTM"));
  EXPECT_THAT(json, Not(HasSubstr("UNSPECIFIED")));
  EXPECT_THAT(json, Not(HasSubstr("score")));
}

TEST(YamlTest, QuotesTextsThatYamlWouldTakeForSomethingElse) {
  const std::string yaml = ToYaml(SomeJob());
  EXPECT_THAT(yaml, HasSubstr("name: jobs/abc\n"));
  EXPECT_THAT(yaml, HasSubstr("attempt_count: \"2\"\n"));
  EXPECT_THAT(yaml, HasSubstr("  name: \"yes\"\n"));
}

TEST(YamlTest, IndentsListsOfMessages) {
  v1::Job job;
  job.add_attempts()->set_number(1);
  job.add_attempts()->set_end_reason("finished: well");
  EXPECT_THAT(ToYaml(job), HasSubstr("attempts:\n  - number: \"1\"\n    placements: []\n"));
  EXPECT_THAT(ToYaml(job), HasSubstr("end_reason: \"finished: well\"\n"));
}

TEST(TableTest, PadsColumnsAndLeavesNoTrailingBlanks) {
  Table table({"JOB", "STATE"});
  table.Add({"jobs/abcdef", "X"});
  table.Add({"é", ""});
  EXPECT_EQ(table.Text(), "JOB          STATE\njobs/abcdef  X\né\n");
}

TEST(ChartTest, DrawsAFallingSeriesFromTopLeftToBottomRight) {
  const std::string chart = Chart({{0, 4}, {1, 2}, {2, 0}}, 24, 3);
  EXPECT_EQ(chart,
            "         4 | *\n"
            "         2 |      *\n"
            "         0 |           *\n"
            "           +------------\n"
            "             step 0    2\n")
      << chart;
}

TEST(ChartTest, LeavesOutWhatIsNotFinite) {
  EXPECT_EQ(Chart({{0, std::nan("")}}, 40, 5), "(no finite values)\n");
  EXPECT_THAT(Chart({{0, 1}, {1, std::numeric_limits<double>::infinity()}, {2, 3}}, 40, 5), Not(HasSubstr("inf")));
}

}  // namespace
}  // namespace sab::client
