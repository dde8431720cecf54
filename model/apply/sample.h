#pragma once

#include <optional>

#include "model/apply/evaluate.h"

namespace sab::model {

struct SampleWork {
  std::vector<int64_t> prompt;  // symbols; at least one
  int64_t length = 200;         // symbols written
  double temperature = 1;       // 0: the best one always, the first of equals
  uint64_t seed = 1;
};

// Writes on a sequence of symbols: reads the prompt, then draws each next symbol from softmax(y / temperature) and
// reads it. One step of the recurrence a symbol, with its state and memories kept (kinds sab and attention look at all
// of their memories); plain LibTorch operations whatever config.engine says. Random numbers are a function of (seed,
// place in the text). Nothing: `progress`, which counts symbols written, stopped it. Throws std::invalid_argument for a
// symbol that is not below shape.vocabulary.
std::optional<std::vector<int64_t>> Sample(const SampleWork& work, const ModelConfig& config, const TaskShape& shape,
                                           const ParameterSet& parameters, const WorkProgress& progress);

}  // namespace sab::model
