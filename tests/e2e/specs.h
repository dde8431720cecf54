#pragma once

#include <string>

#include "absl/strings/str_cat.h"

namespace sab::e2e {

// Steps of a job that is still training whenever a test gets to spoil it, on a machine of any speed. The test ends it.
inline constexpr int kEndless = 100'000'000;

// A small job that takes some seconds for ten thousand steps, with a checkpoint now and then.
inline std::string CopyJob(int replicas, int steps, int checkpoint_every) {
  return absl::StrCat(
      "name: e2e-copy\n"
      "model: {kind: sab, hidden_size: 32}\n"
      "task: {kind: copy, length: 10, one_hot: true}\n"
      "train: {batch_size: 16, steps: ",
      steps,
      ", seed: 7, clip_norm: 1.0}\n"
      "eval: {every: 0, sequences: 32}\n"
      "checkpoint: {every: ",
      checkpoint_every,
      ", keep_latest: 100}\n"
      "resources: {replicas: ",
      replicas, ", device: cpu}\n");
}

}  // namespace sab::e2e
