#include "model/train/schedule.h"

#include <algorithm>
#include <cmath>

namespace sab::model {

double Schedule::Factor(int64_t step, int64_t total_steps) const {
  if (step < warmup_steps) return static_cast<double>(step) / static_cast<double>(warmup_steps);
  if (kind == ScheduleKind::kConstant || total_steps <= warmup_steps) return 1;
  const double progress =
      std::min(1.0, static_cast<double>(step - warmup_steps) / static_cast<double>(total_steps - warmup_steps));
  const double remaining = kind == ScheduleKind::kLinear ? 1 - progress : 0.5 * (1 + std::cos(M_PI * progress));
  return final_factor + (1 - final_factor) * remaining;
}

}  // namespace sab::model
