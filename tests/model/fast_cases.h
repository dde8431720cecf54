#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "model/batch.h"
#include "model/config.h"
#include "model/engine.h"
#include "model/parameters.h"

namespace sab::model {

// One network and one batch on which two engines are compared.
struct FastCase {
  std::string name;
  ModelConfig config;
  TaskShape shape;
  int64_t rows = 3;
  int64_t steps = 23;
  bool ragged = false;        // rows of different lengths
  double weight_scale = 1;    // of all parameters, over their initial values
  int64_t constant_from = 0;  // > 0: from this step on (from 0) the float inputs repeat
  bool forgets = false;       // a cell's output depends on its input alone: equal inputs make equal memories
};

std::ostream& operator<<(std::ostream& out, const FastCase& c);

// A small case in double with what `change` makes of it.
using Change = std::function<void(FastCase&)>;
FastCase Case(const std::string& name, const Change& change);

// What engines are compared on, in double: every combination of the lengths that SAB has, and everything else one by
// one.
std::vector<FastCase> SabGrid();
std::vector<FastCase> Settings();
// Every way to recall with every form of memory and both scores, long enough for several chunks and evictions.
std::vector<FastCase> Controls();

std::string CaseName(const testing::TestParamInfo<FastCase>& info);

void ExpectSameSums(const PassSums& actual, const PassSums& expected, double tolerance);

// Of random numbers, in the case's precision; a function of the case alone.
Batch MakeBatch(const FastCase& c);

// Parameters of a case: those of the configuration, scaled.
ParameterSet MakeParameters(const FastCase& c);

// What a pass leaves.
struct Outcome {
  PassSums sums;
  at::Tensor gradients;  // flat, (N)
};
Outcome RunStep(Engine& engine, ParameterSet& parameters, const Batch& batch);

// Per parameter: the largest difference of two flat gradients relative to the largest element of `expected`; the worst
// of all.
double WorstRelativeError(const ParameterSet& parameters, const at::Tensor& actual, const at::Tensor& expected,
                          std::string* where);

// An engine under test for a case, on these parameters.
using EngineMaker = std::function<std::unique_ptr<Engine>(const FastCase&, ParameterSet&)>;

// In double: a training step of the engine equals the reference's to rounding; with `passes` so do its evaluation and
// outputs.
void ExpectAgreementInDouble(const FastCase& c, const EngineMaker& make, bool passes);

// In fp32: distances of a training step's gradients from the reference in double, the parameters being the same
// numbers.
struct FloatErrors {
  double reference = 0, engine = 0;  // of the reference in fp32, and of the engine
  std::string where;                 // the parameter in which the engine is worst
};
FloatErrors ErrorsInFloat(const FastCase& exact, const EngineMaker& make);

}  // namespace sab::model
