#include "server/store/metric_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/base/status.h"
#include "tests/util/temp_dir.h"

namespace sab::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using testing_util::TempDir;

const JobId kJob("j");

v1::MetricPoint Point(int64_t step, const std::string& split = "train", double value = 1) {
  v1::MetricPoint point;
  point.set_step(step);
  point.set_split(split);
  point.set_name("loss");
  point.set_value(value);
  return point;
}

class MetricStoreTest : public ::testing::Test {
 protected:
  explicit MetricStoreTest(int64_t max_points = 1000) : max_points_(max_points) { Open(); }
  void Open() {
    store_.reset();
    auto store = MetricStore::Open(dir_.path() + "/metrics.db", {.max_points = max_points_});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void Append(int64_t attempt, int64_t batch, const std::vector<v1::MetricPoint>& points) {
    ASSERT_TRUE(store_->Append({kJob, attempt, 0}, batch, points).ok());
  }
  // (step, attempt) of all points, as ListMetrics gives them.
  std::vector<std::pair<int64_t, int64_t>> All() {
    std::vector<std::pair<int64_t, int64_t>> all;
    const auto page = store_->List(kJob, {});
    for (const auto& point : page->points) all.emplace_back(point.step(), point.attempt());
    return all;
  }

  TempDir dir_;
  const int64_t max_points_;
  std::unique_ptr<MetricStore> store_;
};

TEST_F(MetricStoreTest, ABatchIsStoredOnceHoweverOftenItIsSent) {
  EXPECT_TRUE(*store_->Append({kJob, 1, 0}, 1, {Point(1)}));
  EXPECT_FALSE(*store_->Append({kJob, 1, 0}, 1, {Point(1)}));
  EXPECT_TRUE(*store_->Append({kJob, 1, 1}, 1, {Point(1)}));
  EXPECT_THAT(All(), SizeIs(2));
}

TEST_F(MetricStoreTest, ALaterAttemptReplacesWhatLiesBehindItsStart) {
  ASSERT_TRUE(store_->BeginAttempt(kJob, 1, -1).ok());
  Append(1, 1, {Point(1), Point(2), Point(3)});
  ASSERT_TRUE(store_->BeginAttempt(kJob, 2, 1).ok());
  Append(2, 1, {Point(2)});
  EXPECT_THAT(All(), ElementsAre(std::pair(1, 1), std::pair(2, 2)));
  const auto watched = *store_->ReadAfter(kJob, 0, 100);
  ASSERT_THAT(watched, SizeIs(2));
  EXPECT_LT(watched[0].sequence(), watched[1].sequence());
}

TEST_F(MetricStoreTest, AnAttemptFromTheBeginningReplacesStepZeroToo) {
  Append(1, 1, {Point(0, "eval"), Point(5)});
  ASSERT_TRUE(store_->BeginAttempt(kJob, 2, -1).ok());
  EXPECT_THAT(All(), IsEmpty());
}

TEST_F(MetricStoreTest, AnEarlierAttemptIsRefusedOnceALaterOneHasBegun) {
  ASSERT_TRUE(store_->BeginAttempt(kJob, 2, 0).ok());
  const auto refused = store_->Append({kJob, 1, 0}, 1, {Point(1)});
  EXPECT_TRUE(absl::IsAborted(refused.status()));
  EXPECT_EQ(ReasonOf(refused.status()), "STALE_ATTEMPT");
}

TEST_F(MetricStoreTest, SequencesGoOnAfterReopening) {
  Append(1, 1, {Point(1)});
  Open();
  Append(1, 2, {Point(2)});
  const auto points = *store_->ReadAfter(kJob, 1, 100);
  ASSERT_THAT(points, SizeIs(1));
  EXPECT_EQ(points[0].sequence(), 2);
}

TEST_F(MetricStoreTest, NotANumberAndInfinityComeBack) {
  Append(1, 1, {Point(1, "train", std::nan("")), Point(2, "train", std::numeric_limits<double>::infinity())});
  const auto points = store_->List(kJob, {})->points;
  EXPECT_TRUE(std::isnan(points[0].value()));
  EXPECT_TRUE(std::isinf(points[1].value()));
}

TEST_F(MetricStoreTest, PagesCoverEveryPointOnceInOrderOfStep) {
  std::vector<v1::MetricPoint> points;
  for (int i = 0; i < 10; ++i) points.push_back(Point((i * 7) % 10));
  Append(1, 1, points);
  std::vector<int64_t> steps;
  MetricQuery query{.limit = 3};
  do {
    const auto page = store_->List(kJob, query);
    ASSERT_TRUE(page.ok());
    for (const auto& point : page->points) steps.push_back(point.step());
    query.token = page->next_token;
  } while (!query.token.empty());
  EXPECT_THAT(steps, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST_F(MetricStoreTest, FiltersBySplitAndName) {
  Append(1, 1, {Point(1), Point(1, "eval")});
  EXPECT_THAT(store_->List(kJob, {.split = "eval"})->points, SizeIs(1));
  EXPECT_THAT(store_->List(kJob, {.metric = "loss"})->points, SizeIs(2));
  EXPECT_THAT(store_->List(kJob, {.metric = "accuracy"})->points, IsEmpty());
}

TEST_F(MetricStoreTest, APageTokenThatNoPageGaveIsRefused) {
  for (const char* token : {"x", "1", "1.x", "1.2.3"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(store_->List(kJob, {.token = token}).status())) << token;
  }
}

TEST_F(MetricStoreTest, RemovingAJobLeavesOthersAlone) {
  Append(1, 1, {Point(1)});
  ASSERT_TRUE(store_->Append({JobId("other"), 1, 0}, 1, {Point(1)}).ok());
  while (*store_->RemoveSome(kJob)) {
  }
  EXPECT_THAT(All(), IsEmpty());
  EXPECT_THAT(*store_->ReadAfter(JobId("other"), 0, 10), SizeIs(1));
}

class BoundedMetricStoreTest : public MetricStoreTest {
 protected:
  BoundedMetricStoreTest() : MetricStoreTest(100) {}
};

TEST_F(BoundedMetricStoreTest, TrainingFiguresAreThinnedAndEvaluationsKept) {
  for (int64_t step = 1; step <= 1000; ++step) {
    std::vector<v1::MetricPoint> points = {Point(step)};
    if (step % 100 == 0) points.push_back(Point(step, "eval"));
    Append(1, step, points);
  }
  EXPECT_THAT(store_->List(kJob, {.split = "eval"})->points, SizeIs(10));
  const auto train = store_->List(kJob, {.split = "train"})->points;
  EXPECT_GT(train.size(), 20u);
  EXPECT_LE(train.size(), 100u);
  EXPECT_GT(train.back().step(), 900);
}

}  // namespace
}  // namespace sab::server
