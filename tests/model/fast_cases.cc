#include "tests/model/fast_cases.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "model/random.h"

namespace sab::model {

std::ostream& operator<<(std::ostream& out, const FastCase& c) {
  return out << c.name;
}

Batch MakeBatch(const FastCase& c) {
  Random random(7, 11);
  Batch batch;
  const auto longs = [&](at::IntArrayRef sizes, int64_t low, int64_t high) {
    at::Tensor t = at::empty(sizes, at::kLong);
    for (int64_t i = 0; i < t.numel(); ++i) {
      t.mutable_data_ptr<int64_t>()[i] = low + static_cast<int64_t>(random.Below(static_cast<uint64_t>(high - low)));
    }
    return t;
  };
  const auto floats = [&](at::IntArrayRef sizes) {
    at::Tensor t = at::empty(sizes, at::kFloat);
    for (int64_t i = 0; i < t.numel(); ++i) t.mutable_data_ptr<float>()[i] = static_cast<float>(random.Normal());
    return t;
  };
  if (c.shape.vocabulary > 0) {
    batch.inputs = longs({c.rows, c.steps}, 0, c.shape.vocabulary);
  } else {
    batch.inputs = floats({c.rows, c.steps, c.shape.inputs});
    for (int64_t t = c.constant_from + 1; c.constant_from > 0 && t < c.steps; ++t) {
      batch.inputs.select(1, t).copy_(batch.inputs.select(1, c.constant_from));
    }
  }
  if (c.shape.loss == LossKind::kMseLastStep) {
    batch.targets = floats({c.rows, c.shape.outputs});
  } else if (c.shape.loss == LossKind::kCrossEntropyLastStep) {
    batch.targets = longs({c.rows}, 0, c.shape.outputs);
  } else {
    batch.targets = longs({c.rows, c.steps}, 0, c.shape.outputs);
  }
  if (c.ragged) batch.lengths = longs({c.rows}, 1, c.steps + 1);
  batch.metric_from = c.steps / 2;
  return batch;
}

ParameterSet MakeParameters(const FastCase& c) {
  ParameterSet parameters(c.config, c.shape, at::kCPU);
  parameters.values().mul_(c.weight_scale);
  if (c.forgets) {
    parameters.Get("cell.weight_hh").value.zero_();
    parameters.Get("cell.bias_ih").value.narrow(0, c.config.hidden_size, c.config.hidden_size).fill_(-80);
  }
  return parameters;
}

Outcome RunStep(Engine& engine, ParameterSet& parameters, const Batch& batch) {
  parameters.gradients().zero_();
  Outcome outcome;
  outcome.sums = engine.ForwardBackward(batch, 1.0 / static_cast<double>(batch.rows() * batch.steps()));
  outcome.gradients = parameters.gradients().clone();
  return outcome;
}

double WorstRelativeError(const ParameterSet& parameters, const at::Tensor& actual, const at::Tensor& expected,
                          std::string* where) {
  double worst = 0;
  int64_t offset = 0;
  for (const Parameter& p : parameters.all()) {
    const int64_t count = p.value.numel();
    const at::Tensor a = actual.narrow(0, offset, count).to(at::kDouble);
    const at::Tensor e = expected.narrow(0, offset, count).to(at::kDouble);
    offset += count;
    const double largest = e.abs().max().item<double>();
    const double error = (a - e).abs().max().item<double>() / (largest > 0 ? largest : 1.0);
    if (!(error <= worst)) {
      worst = error;
      *where = p.name + " (largest element " + std::to_string(largest) + ")";
    }
  }
  return worst;
}

}  // namespace sab::model
