#include "server/coordinator/halving.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "common/spec/halving.h"

namespace sab::server {
namespace {

using spec::PlacesAt;
using ::testing::ElementsAre;
using Standing = RankedTrial::Standing;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(HalvingTest, PlacesAreRoundedUpAndNeverFewerThanOne) {
  EXPECT_EQ(PlacesAt(27, 3, 0), 9);
  EXPECT_EQ(PlacesAt(27, 3, 1), 3);
  EXPECT_EQ(PlacesAt(27, 3, 2), 1);
  EXPECT_EQ(PlacesAt(27, 3, 40), 1);
  EXPECT_EQ(PlacesAt(10, 4, 0), 3);
  EXPECT_EQ(PlacesAt(10, 4, 1), 1);
  EXPECT_EQ(PlacesAt(2, 3, 0), 1);
}

TEST(HalvingTest, NothingIsDecidedWhileSomebodyIsComing) {
  const RankedTrial trials[] = {{Standing::kThere, 1}, {Standing::kComing, 0}, {Standing::kEnded, 2}};
  const RungDecision decision = DecideRung(trials, 1, true);
  EXPECT_FALSE(decision.decided);
  EXPECT_EQ(decision.ranked, 2);
}

TEST(HalvingTest, TheEarlierOfEqualsIsBetterAndWhatIsNotFiniteIsWorst) {
  const RankedTrial trials[] = {
      {Standing::kThere, kNan}, {Standing::kThere, 0.5}, {Standing::kThere, 0.5}, {Standing::kThere, 0.25}};
  EXPECT_THAT(DecideRung(trials, 2, true).rank, ElementsAre(4, 1, 2, 3));
  EXPECT_THAT(DecideRung(trials, 2, true).goes_on, ElementsAre(false, true, true, false));
  EXPECT_THAT(DecideRung(trials, 2, false).rank, ElementsAre(4, 2, 3, 1));
}

TEST(HalvingTest, OneThatHasEndedKeepsItsPlaceAndOneThatIsOutLeavesItsOwnToTheNext) {
  const RankedTrial trials[] = {
      {Standing::kEnded, 0.9}, {Standing::kOut, 1.0}, {Standing::kThere, 0.5}, {Standing::kThere, 0.4}};
  const RungDecision decision = DecideRung(trials, 2, true);
  EXPECT_TRUE(decision.decided);
  EXPECT_THAT(decision.rank, ElementsAre(1, 0, 2, 3));
  EXPECT_THAT(decision.goes_on, ElementsAre(true, false, true, false));
}

// A whole sweep, trial by trial: figures are functions of (trial, rung), ends are drawn beforehand.
struct Sweep {
  int64_t factor = 2;
  bool higher = true;
  std::vector<std::vector<double>> figures;  // by trial, by rung
  std::vector<int> out_before;               // fails on its way to this rung
  std::vector<int> ends_before;              // succeeds on its way to it, with the figure of this rung
};

constexpr int kRungs = 4;

Sweep Draw(std::mt19937_64& random) {
  Sweep sweep;
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); };
  sweep.factor = 2 + below(3);
  sweep.higher = below(2) == 0;
  for (int trials = 2 + below(40), i = 0; i < trials; ++i) {
    std::vector<double>& figures = sweep.figures.emplace_back();
    // Few values, so that there are ties.
    for (int rung = 0; rung < kRungs; ++rung) figures.push_back(below(20) == 0 ? kNan : below(8) / 8.0);
    sweep.out_before.push_back(below(6) == 0 ? below(kRungs) : kRungs);
    sweep.ends_before.push_back(below(6) == 0 ? below(kRungs) : kRungs);
  }
  return sweep;
}

// Who is let past each rung, when trials arrive in a drawn order and the decision is asked for after each arrival. At
// every rung: the invariants.
std::vector<std::vector<bool>> Play(const Sweep& sweep, std::mt19937_64 random) {
  const size_t n = sweep.figures.size();
  std::vector<std::vector<bool>> passed;
  std::vector<size_t> members(n);
  std::iota(members.begin(), members.end(), size_t{0});
  std::vector<double> ended(n, kNan);
  for (int rung = 0; rung < kRungs; ++rung) {
    std::vector<RankedTrial> trials(members.size());
    std::vector<size_t> arrivals(members.size());
    std::iota(arrivals.begin(), arrivals.end(), size_t{0});
    std::shuffle(arrivals.begin(), arrivals.end(), random);
    const int64_t places = PlacesAt(static_cast<int64_t>(n), sweep.factor, rung);
    RungDecision decision;
    for (size_t k = 0; k < arrivals.size(); ++k) {
      EXPECT_FALSE(DecideRung(trials, places, sweep.higher).decided);
      const size_t trial = members[arrivals[k]];
      const double figure = sweep.figures[trial][static_cast<size_t>(rung)];
      if (sweep.out_before[trial] <= rung) {
        trials[arrivals[k]] = {Standing::kOut, figure};
      } else if (sweep.ends_before[trial] <= rung) {
        trials[arrivals[k]] = {Standing::kEnded, sweep.figures[trial][static_cast<size_t>(sweep.ends_before[trial])]};
      } else {
        trials[arrivals[k]] = {Standing::kThere, figure};
      }
      decision = DecideRung(trials, places, sweep.higher);
    }
    EXPECT_TRUE(decision.decided);
    const auto able = std::count_if(trials.begin(), trials.end(),
                                    [](const RankedTrial& trial) { return trial.standing != Standing::kOut; });
    EXPECT_EQ(decision.ranked, able);
    EXPECT_EQ(std::count(decision.goes_on.begin(), decision.goes_on.end(), true), std::min<int64_t>(places, able));
    // Nobody who stays behind is better than one who goes on.
    for (size_t a = 0; a < trials.size(); ++a) {
      for (size_t b = 0; b < trials.size(); ++b) {
        if (!decision.goes_on[a] || decision.goes_on[b] || trials[b].standing == Standing::kOut) continue;
        const bool better = std::isfinite(trials[b].figure) &&
                            (!std::isfinite(trials[a].figure) || (sweep.higher ? trials[b].figure > trials[a].figure
                                                                               : trials[b].figure < trials[a].figure));
        EXPECT_FALSE(better);
        if (trials[a].figure == trials[b].figure) {
          EXPECT_LT(a, b);
        }
      }
    }
    std::vector<size_t> next;
    std::vector<bool>& past = passed.emplace_back(n, false);
    for (size_t i = 0; i < members.size(); ++i) {
      if (!decision.goes_on[i]) continue;
      past[members[i]] = true;
      next.push_back(members[i]);
    }
    members = next;
    if (members.empty()) break;
  }
  return passed;
}

TEST(HalvingTest, TheSameTrialsGoOnInWhateverOrderTheyArrive) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const Sweep sweep = Draw(random);
    const auto first = Play(sweep, std::mt19937_64(seed * 2 + 1));
    EXPECT_EQ(Play(sweep, std::mt19937_64(seed * 3 + 2)), first);
    EXPECT_EQ(Play(sweep, std::mt19937_64(seed * 5 + 3)), first);
  }
}

TEST(HalvingTest, AJobIsAtItsRungWithAFigureOfThatStepAlone) {
  v1::Job job;
  EXPECT_EQ(NextRung(job), 0);
  job.mutable_spec()->mutable_halving()->add_rungs(10);
  job.mutable_spec()->mutable_halving()->add_rungs(20);
  EXPECT_EQ(NextRung(job), 10);
  EXPECT_FALSE(IsAtRung(job));
  job.mutable_halving()->set_figure(0.5);
  job.mutable_halving()->set_figure_step(5);
  EXPECT_FALSE(IsAtRung(job));
  job.mutable_halving()->set_figure_step(10);
  EXPECT_TRUE(IsAtRung(job));
  job.mutable_halving()->set_passed(1);
  EXPECT_EQ(NextRung(job), 20);
  EXPECT_FALSE(IsAtRung(job));
  job.mutable_halving()->set_passed(2);
  EXPECT_EQ(NextRung(job), 0);
  EXPECT_FALSE(IsAtRung(job));
}

TEST(HalvingTest, ALossIsTold) {
  v1::Job job;
  job.mutable_spec()->mutable_halving()->add_rungs(500);
  job.mutable_spec()->mutable_halving()->set_metric("accuracy");
  job.mutable_halving()->set_figure(0.41);
  EXPECT_EQ(DescribeLoss(job, 12, 27), "left its sweep at step 500: 12th of 27 by accuracy (0.41)");
  EXPECT_EQ(DescribeLoss(job, 22, 27), "left its sweep at step 500: 22nd of 27 by accuracy (0.41)");
}

}  // namespace
}  // namespace sab::server
