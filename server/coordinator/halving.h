#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "sab/v1/job.pb.h"

// Successive halving: who goes on at a rung of a sweep. Pure.
namespace sab::server {

// A trial that has been let past all rungs before the one that is decided.
struct RankedTrial {
  enum class Standing {
    kComing,  // may still get there
    kThere,   // waits at the rung
    kEnded,   // succeeded before it: keeps its place among the ranked, and needs no slot
    kOut,     // failed or cancelled
  };
  Standing standing = Standing::kComing;
  double figure = 0;  // of kThere and kEnded; not finite: worse than any other
};

// What becomes of each of `trials`, which are in the order of their creation.
struct RungDecision {
  bool decided = false;       // false: somebody is still coming
  std::vector<int64_t> rank;  // from 1, the best; 0: not ranked
  std::vector<bool> goes_on;  // among the ranked alone
  int64_t ranked = 0;         // how many are there or have ended
};
// The best `places` of those that are there or have ended go on; of equal figures the earlier trial's is better. What
// arrives when, and what happens between two calls, makes no difference once all are there.
RungDecision DecideRung(absl::Span<const RankedTrial> trials, int64_t places, bool higher_is_better);

// The step of the next rung of the job; 0: there is none.
int64_t NextRung(const v1::Job& job);
// Whether the job has been evaluated at its next rung, with a checkpoint there: it trains no step before it is let
// past.
bool IsAtRung(const v1::Job& job);

// "left its sweep at step 500: 12th of 27 by accuracy (0.41)".
std::string DescribeLoss(const v1::Job& job, int64_t rank, int64_t ranked);

}  // namespace sab::server
