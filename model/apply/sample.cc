#include "model/apply/sample.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "model/random.h"
#include "model/reference/cell.h"
#include "model/reference/loss.h"
#include "model/reference/recurrence.h"
#include "model/row_streams.h"
#include "model/train/on_device.h"

namespace sab::model {
namespace {

constexpr char kStream[] = "sample";

at::Tensor ToTensor(const std::vector<int64_t>& symbols) {
  at::Tensor tensor = at::empty({1, static_cast<int64_t>(symbols.size())}, at::kLong);
  std::copy(symbols.begin(), symbols.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

// The symbol that `uniform` in [0, 1) falls on; NaN scores are never drawn.
int64_t Draw(const at::Tensor& scores, double temperature, double uniform) {
  const at::Tensor host = scores.to(at::kCPU, at::kDouble).contiguous();
  const double* y = host.const_data_ptr<double>();
  const int64_t n = host.numel();
  const double best = *std::max_element(y, y + n);
  if (temperature == 0) return std::find(y, y + n, best) - y;
  std::vector<double> upto;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double weight = std::exp((y[i] - best) / temperature);
    upto.push_back(sum += std::isfinite(weight) ? weight : 0);
  }
  const auto at = std::upper_bound(upto.begin(), upto.end(), uniform * sum);
  return std::min<int64_t>(at - upto.begin(), n - 1);
}

}  // namespace

std::optional<std::vector<int64_t>> Sample(const SampleWork& work, const ModelConfig& config, const TaskShape& shape,
                                           const ParameterSet& parameters, const WorkProgress& progress) {
  for (const int64_t symbol : work.prompt) {
    if (symbol >= 0 && symbol < shape.vocabulary) continue;
    throw std::invalid_argument("symbol " + std::to_string(symbol) + " of the prompt is not below " +
                                std::to_string(shape.vocabulary));
  }
  const at::NoGradGuard no_grad;
  const Weights weights = MakeWeights(config, parameters);
  Batch batch;
  batch.inputs = ToTensor(work.prompt);
  const bool random = config.kind == Kind::kSab && config.recall == Recall::kRandom;
  const std::unique_ptr<Recurrence> recurrence =
      MakeRecurrence(config, weights, 1, random ? RowStreams(batch) : std::vector<uint64_t>());
  // (t) symbols -> the scores behind the last of them.
  const auto read = [&](const at::Tensor& symbols) {
    Batch next;
    next.inputs = symbols;
    const States states = recurrence->Advance(ProjectInputs(weights, OnDevice(next, parameters.values()).inputs));
    const at::Tensor outputs = Output(weights, states);  // (t,1,O)
    return outputs.select(0, outputs.size(0) - 1).select(0, 0);
  };
  Random numbers(work.seed, HashBytes(kStream, sizeof(kStream) - 1));
  std::vector<int64_t> written;
  at::Tensor scores = read(batch.inputs);
  while (static_cast<int64_t>(written.size()) < work.length) {
    written.push_back(Draw(scores, work.temperature, numbers.Uniform()));
    if (!progress(static_cast<int64_t>(written.size()), work.length)) return std::nullopt;
    scores = read(ToTensor({written.back()}));
  }
  return written;
}

}  // namespace sab::model
