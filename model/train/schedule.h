#pragma once

#include <cstdint>

namespace sab::model {

enum class ScheduleKind { kConstant, kLinear, kCosine };

// Learning rate over steps: a linear warm-up from 0, then the shape, down to final_factor at the last step.
struct Schedule {
  ScheduleKind kind = ScheduleKind::kConstant;
  int64_t warmup_steps = 0;
  double final_factor = 0;

  // What the learning rate of step 1..total_steps is multiplied by. Step warmup_steps has factor 1.
  double Factor(int64_t step, int64_t total_steps) const;
};

}  // namespace sab::model
