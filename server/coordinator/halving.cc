#include "server/coordinator/halving.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sab::server {
namespace {

bool IsRanked(const RankedTrial& trial) {
  return trial.standing == RankedTrial::Standing::kThere || trial.standing == RankedTrial::Standing::kEnded;
}

// "1st", "12th", "23rd".
std::string Ordinal(int64_t number) {
  const int64_t tens = number % 100;
  const char* suffix = tens >= 11 && tens <= 13 ? "th"
                       : number % 10 == 1       ? "st"
                       : number % 10 == 2       ? "nd"
                       : number % 10 == 3       ? "rd"
                                                : "th";
  return absl::StrCat(number, suffix);
}

}  // namespace

RungDecision DecideRung(absl::Span<const RankedTrial> trials, int64_t places, bool higher_is_better) {
  RungDecision decision;
  decision.rank.resize(trials.size());
  decision.goes_on.resize(trials.size());
  decision.ranked = std::count_if(trials.begin(), trials.end(), IsRanked);
  const auto coming = [](const RankedTrial& trial) { return trial.standing == RankedTrial::Standing::kComing; };
  if (std::any_of(trials.begin(), trials.end(), coming)) return decision;
  decision.decided = true;
  std::vector<size_t> order(trials.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::erase_if(order, [&](size_t i) { return !IsRanked(trials[i]); });
  // Stable: equal ones stay in the order of their creation.
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const bool finite_a = std::isfinite(trials[a].figure), finite_b = std::isfinite(trials[b].figure);
    if (!finite_a || !finite_b) return finite_a && !finite_b;
    return higher_is_better ? trials[a].figure > trials[b].figure : trials[a].figure < trials[b].figure;
  });
  for (size_t i = 0; i < order.size(); ++i) {
    decision.rank[order[i]] = static_cast<int64_t>(i) + 1;
    decision.goes_on[order[i]] = static_cast<int64_t>(i) < places;
  }
  return decision;
}

int64_t NextRung(const v1::Job& job) {
  const auto& rungs = job.spec().halving().rungs();
  const int64_t passed = job.halving().passed();
  return passed < rungs.size() ? rungs[static_cast<int>(passed)] : 0;
}

bool IsAtRung(const v1::Job& job) {
  const int64_t rung = NextRung(job);
  return rung > 0 && job.halving().has_figure() && job.halving().figure_step() == rung;
}

std::string DescribeLoss(const v1::Job& job, int64_t rank, int64_t ranked) {
  return absl::StrCat("left its sweep at step ", NextRung(job), ": ", Ordinal(rank), " of ", ranked, " by ",
                      job.spec().halving().metric(), absl::StrFormat(" (%.4g)", job.halving().figure()));
}

}  // namespace sab::server
