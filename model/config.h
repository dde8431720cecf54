#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sab::model {

// Settings of the engine, in plain types: `model/` knows no job file. The words are those of the job file's `model:`
// section, where docs/TUNING.md explains them. B batch, T steps, I inputs, H hidden, O outputs.

enum class Kind { kSab, kLstm, kAttention };
enum class Score { kMlp, kSeparable };
// What a step recalls once there are more than k_top memories: the k_top best scores by their gap to the next one; the
// controls all memories, k_top drawn at random (a function of seed, the row's input and the step, so the same for any
// number of ranks and after a restart), or the k_top written last. The controls' weights are those of `dense`.
enum class Recall { kTop, kAll, kRandom, kLast };
enum class Truncate { kBoth, kH };
enum class Dense { kRaw, kSoftmax };
enum class MemoryState { kRecalled, kProvisional };
enum class Normaliser { kSoftmax, kNone };
enum class Init { kPaper, kScaled };
enum class Recompute { kAuto, kOn, kOff };
enum class CudaGraphs { kAuto, kOff };
enum class EngineKind { kAuto, kFast, kReference };  // auto: fast where it exists, else the reference
enum class MemoryPolicy { kRecent, kSalient };
enum class Precision { kFp32, kTf32, kBf16, kFp64 };  // fp64: tests

// What the loss is taken over and which output the network has.
enum class LossKind {
  kCrossEntropyEveryStep,  // targets (B,T) int64, mean over all positions
  kCrossEntropyLastStep,   // targets (B) int64, at each row's last step
  kMseLastStep,            // targets (B,O) float, mean over rows and outputs, at each row's last step
};

// Shapes a task fixes.
struct TaskShape {
  int64_t inputs = 1;      // I: channels of float input; 0 when the input is symbols
  int64_t vocabulary = 0;  // > 0: the input is (B,T) int64 symbols below it
  int64_t outputs = 10;    // O
  LossKind loss = LossKind::kCrossEntropyEveryStep;
};

struct ModelConfig {
  Kind kind = Kind::kSab;
  int64_t hidden_size = 128;
  int64_t k_trunc = 5;  // 0: never truncated
  int64_t k_att = 2;
  int64_t k_top = 5;
  Score score = Score::kMlp;
  Recall recall = Recall::kTop;
  Truncate truncate = Truncate::kBoth;
  bool mental_updates = true;
  bool detach_scores = false;
  double tie_guard = 0.01;  // 0: never
  Normaliser normaliser = Normaliser::kSoftmax;
  Dense dense = Dense::kSoftmax;
  MemoryState memory_state = MemoryState::kProvisional;
  int64_t memory_capacity = 0;  // 0: unbounded; counts m_1
  MemoryPolicy memory_policy = MemoryPolicy::kRecent;
  int64_t memory_recent = 16;
  Recompute recompute = Recompute::kAuto;
  CudaGraphs cuda_graphs = CudaGraphs::kAuto;  // of the fused engine on a GPU
  EngineKind engine = EngineKind::kAuto;
  Init init = Init::kScaled;
  std::optional<double> init_std;
  int64_t embedding_size = 0;  // symbols: 0 means one-hot
  Precision precision = Precision::kFp32;
  uint64_t seed = 1;  // of the initial parameters and of recall: random
};

}  // namespace sab::model
