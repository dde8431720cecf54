#include "tests/model/reference_plain.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sab::model {
namespace {

constexpr double kEpsilon = 1e-7;

double Sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

double Dot(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

void AddScaled(Vector& to, double factor, const Vector& x) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += factor * x[i];
}

// matrix (n, x.size()) times x.
Vector Times(const Vector& matrix, const Vector& x) {
  Vector y(matrix.size() / x.size());
  for (size_t i = 0; i < matrix.size(); ++i) y[i / x.size()] += matrix[i] * x[i % x.size()];
  return y;
}

// matrix (y.size(), n) transposed times y.
Vector TransposedTimes(const Vector& matrix, const Vector& y) {
  const size_t n = matrix.size() / y.size();
  Vector x(n);
  for (size_t i = 0; i < matrix.size(); ++i) x[i % n] += matrix[i] * y[i / n];
  return x;
}

void AddOuter(Vector& matrix, const Vector& y, const Vector& x) {
  for (size_t i = 0; i < matrix.size(); ++i) matrix[i] += y[i / x.size()] * x[i % x.size()];
}

Vector Concatenated(Vector a, const Vector& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

struct Step {
  Vector x, h_before, c_before, i, f, g, o, c, provisional, s, h, dy;
  bool truncated = false, sparse = false, held = false;
  std::vector<size_t> index;  // of memories, best first; the (k_top+1)-th last when sparse
  Vector scores, alpha;       // of index; alpha without the (k_top+1)-th
  double z = 0;
  size_t written = 0;  // the memory written after it; 0: none
};

// One row of the batch.
class PlainRow {
 public:
  PlainRow(const ModelConfig& config, const PlainParameters& p, const PlainOptions& options, PlainResult& result)
      : config_(config), p_(p), options_(options), result_(result), size_(config.hidden_size) {}

  void Forward(const std::vector<Vector>& inputs, const std::vector<int64_t>& targets) {
    Vector h(size_), c(size_);
    memories_.push_back(h);
    for (size_t t = 1; t <= inputs.size(); ++t) {
      Step step{.x = inputs[t - 1], .h_before = h, .c_before = c};
      if (config_.k_trunc > 0 && t % config_.k_trunc == 0) CutAt(step);
      Cell(step);
      step.s = Vector(size_);
      if (config_.kind == Kind::kSab) Recall(step);
      step.h = step.provisional;
      AddScaled(step.h, 1, step.s);
      if (config_.kind == Kind::kSab && t % config_.k_att == 0) {
        memories_.push_back(config_.memory_state == MemoryState::kRecalled ? step.h : step.provisional);
        step.written = memories_.size() - 1;
      }
      AddLoss(step, targets[t - 1]);
      for (double value : step.h) result_.largest_value = std::max(result_.largest_value, std::abs(value));
      h = step.h;
      c = step.c;
      steps_.push_back(std::move(step));
    }
  }

  void Backward() {
    memory_gradients_.assign(memories_.size(), Vector(size_));
    Vector dh(size_), dc(size_);
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) BackwardStep(*step, dh, dc);
  }

 private:
  bool IsMlp() const { return config_.score == Score::kMlp; }
  const Vector& P(const char* name) const { return p_.at(name); }
  Vector& D(const char* name) { return result_.gradients.at(name); }
  Vector Features(const Step& step) const { return config_.kind == Kind::kSab ? Concatenated(step.h, step.s) : step.h; }

  void CutAt(Step& step) {
    step.truncated = true;
    result_.boundaries.emplace_back(step.h_before, step.c_before);
    if (options_.fixed == nullptr) return;
    const auto& [h, c] = options_.fixed->at(result_.boundaries.size() - 1);
    step.h_before = h;
    if (config_.truncate == Truncate::kBoth) step.c_before = c;
  }

  void Cell(Step& step) const {
    Vector gates = Times(P("cell.weight_ih"), step.x);
    AddScaled(gates, 1, Times(P("cell.weight_hh"), step.h_before));
    AddScaled(gates, 1, P("cell.bias_ih"));
    AddScaled(gates, 1, P("cell.bias_hh"));
    for (size_t k = 0; k < size_; ++k) {
      step.i.push_back(Sigmoid(gates[k]));
      step.f.push_back(Sigmoid(gates[size_ + k]));
      step.g.push_back(std::tanh(gates[2 * size_ + k]));
      step.o.push_back(Sigmoid(gates[3 * size_ + k]));
      step.c.push_back(step.f[k] * step.c_before[k] + step.i[k] * step.g[k]);
      step.provisional.push_back(step.o[k] * std::tanh(step.c[k]));
    }
  }

  // tanh(W_m m + W_q h)
  Vector ScoreLayer(const Vector& memory, const Vector& query) const {
    Vector z = Times(P("attention.memory.weight"), memory);
    AddScaled(z, 1, Times(P("attention.query.weight"), query));
    for (double& value : z) value = std::tanh(value);
    return z;
  }

  double ScoreOf(const Vector& memory, const Vector& query) const {
    if (IsMlp()) return Dot(P("attention.score.weight"), ScoreLayer(memory, query));
    double score = 0;
    for (size_t k = 0; k < size_; ++k) {
      score += P("attention.query_score.weight")[k] * std::tanh(query[k]);
      score += P("attention.memory_score.weight")[k] * std::tanh(memory[k]);
    }
    return score;
  }

  void Recall(Step& step) {
    Vector scores;
    for (const Vector& memory : memories_) scores.push_back(ScoreOf(memory, step.provisional));
    const size_t n = memories_.size(), k = config_.k_top;
    step.index.resize(n);
    std::iota(step.index.begin(), step.index.end(), 0);
    step.sparse = n > k;
    if (step.sparse) {
      if (options_.latest_tie_first) std::reverse(step.index.begin(), step.index.end());
      std::stable_sort(step.index.begin(), step.index.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
      const double delta = scores[step.index[k]];
      result_.smallest_gap = std::min(result_.smallest_gap, scores[step.index[k - 1]] - delta);
      if (n > k + 1) result_.smallest_gap = std::min(result_.smallest_gap, delta - scores[step.index[k + 1]]);
      step.index.resize(k + 1);
    }
    for (size_t i : step.index) step.scores.push_back(scores[i]);
    Weigh(step);
    for (size_t i = 0; i < step.alpha.size(); ++i) AddScaled(step.s, step.alpha[i], memories_[step.index[i]]);
  }

  void Weigh(Step& step) {
    step.alpha = step.scores;
    if (step.sparse) {
      const double delta = step.scores.back();
      step.alpha.pop_back();
      for (double& value : step.alpha) value = std::max(0.0, value - delta);
      step.z = std::accumulate(step.alpha.begin(), step.alpha.end(), 0.0) + kEpsilon;
      result_.smallest_z = std::min(result_.smallest_z, step.z);
      step.held = step.z < config_.tie_guard;
      result_.guarded += step.held;
      for (double& value : step.alpha) value /= step.z;
    } else if (config_.dense == Dense::kSoftmax) {
      double total = 0;
      for (double& value : step.alpha) total += value = std::exp(value);
      for (double& value : step.alpha) value /= total;
    }
  }

  void AddLoss(Step& step, int64_t target) {
    step.dy = Times(P("output.weight"), Features(step));
    AddScaled(step.dy, 1, P("output.bias"));
    const double logit = step.dy[target];
    double total = 0;
    for (double& value : step.dy) total += value = std::exp(value);
    result_.loss += std::log(total) - logit;
    for (double& value : step.dy) value /= total;
    step.dy[target] -= 1;
  }

  // dh, dc: the gradients of h_t and c_t from later steps on entry, of h_{t-1} and c_{t-1} on return.
  void BackwardStep(const Step& step, Vector& dh, Vector& dc) {
    const Vector features = Features(step), df = TransposedTimes(P("output.weight"), step.dy);
    AddOuter(D("output.weight"), step.dy, features);
    AddScaled(D("output.bias"), 1, step.dy);
    const bool recalled = config_.memory_state == MemoryState::kRecalled;
    AddScaled(dh, 1, Vector(df.begin(), df.begin() + size_));
    if (step.written > 0 && recalled) AddScaled(dh, 1, memory_gradients_[step.written]);
    Vector dprovisional = dh;
    if (step.written > 0 && !recalled) AddScaled(dprovisional, 1, memory_gradients_[step.written]);
    if (config_.kind == Kind::kSab) {
      Vector ds = dh;
      AddScaled(ds, 1, Vector(df.begin() + size_, df.end()));
      BackwardRecall(step, ds, dprovisional);
    }
    BackwardCell(step, dprovisional, dh, dc);
    if (step.truncated) {
      dh.assign(size_, 0);
      if (config_.truncate == Truncate::kBoth) dc.assign(size_, 0);
    }
  }

  void BackwardRecall(const Step& step, const Vector& ds, Vector& dquery) {
    Vector g;
    for (size_t i = 0; i < step.alpha.size(); ++i) {
      g.push_back(Dot(ds, memories_[step.index[i]]));
      AddScaled(memory_gradients_[step.index[i]], step.alpha[i], ds);
    }
    const double mean = Dot(step.alpha, g);
    Vector da(step.scores.size());
    for (size_t i = 0; i < step.alpha.size(); ++i) {
      if (!step.sparse) {
        da[i] = config_.dense == Dense::kRaw ? g[i] : step.alpha[i] * (g[i] - mean);
      } else if (!step.held && step.alpha[i] > 0) {
        da[i] = (g[i] - mean) / step.z;
        da.back() -= da[i];
      }
    }
    for (size_t i = 0; i < da.size(); ++i) BackwardScore(step, step.index[i], da[i], dquery);
  }

  void BackwardScore(const Step& step, size_t memory, double da, Vector& dquery) {
    const Vector &m = memories_[memory], &q = step.provisional;
    if (IsMlp()) {
      Vector z = ScoreLayer(m, q);
      AddScaled(D("attention.score.weight"), da, z);
      for (size_t k = 0; k < size_; ++k) z[k] = da * P("attention.score.weight")[k] * (1 - z[k] * z[k]);
      AddOuter(D("attention.memory.weight"), z, m);
      AddOuter(D("attention.query.weight"), z, q);
      AddScaled(memory_gradients_[memory], 1, TransposedTimes(P("attention.memory.weight"), z));
      AddScaled(dquery, 1, TransposedTimes(P("attention.query.weight"), z));
      return;
    }
    for (size_t k = 0; k < size_; ++k) {
      const double tq = std::tanh(q[k]), tm = std::tanh(m[k]);
      D("attention.query_score.weight")[k] += da * tq;
      D("attention.memory_score.weight")[k] += da * tm;
      dquery[k] += da * P("attention.query_score.weight")[k] * (1 - tq * tq);
      memory_gradients_[memory][k] += da * P("attention.memory_score.weight")[k] * (1 - tm * tm);
    }
  }

  void BackwardCell(const Step& step, const Vector& dprovisional, Vector& dh, Vector& dc) {
    Vector dgates(4 * size_);
    for (size_t k = 0; k < size_; ++k) {
      const double tc = std::tanh(step.c[k]);
      const double dck = dc[k] + dprovisional[k] * step.o[k] * (1 - tc * tc);
      dgates[k] = dck * step.g[k] * step.i[k] * (1 - step.i[k]);
      dgates[size_ + k] = dck * step.c_before[k] * step.f[k] * (1 - step.f[k]);
      dgates[2 * size_ + k] = dck * step.i[k] * (1 - step.g[k] * step.g[k]);
      dgates[3 * size_ + k] = dprovisional[k] * tc * step.o[k] * (1 - step.o[k]);
      dc[k] = dck * step.f[k];
    }
    AddOuter(D("cell.weight_ih"), dgates, step.x);
    AddOuter(D("cell.weight_hh"), dgates, step.h_before);
    AddScaled(D("cell.bias_ih"), 1, dgates);
    AddScaled(D("cell.bias_hh"), 1, dgates);
    dh = TransposedTimes(P("cell.weight_hh"), dgates);
  }

  const ModelConfig& config_;
  const PlainParameters& p_;
  const PlainOptions& options_;
  PlainResult& result_;
  const size_t size_;
  std::vector<Step> steps_;
  std::vector<Vector> memories_, memory_gradients_;
};

}  // namespace

PlainParameters ToPlain(const ParameterSet& parameters, bool gradients) {
  PlainParameters plain;
  for (const Parameter& parameter : parameters.all()) {
    const at::Tensor values = (gradients ? parameter.gradient : parameter.value).to(at::kDouble).contiguous();
    plain[parameter.name] = Vector(values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel());
  }
  return plain;
}

PlainResult RunPlain(const ModelConfig& config, const PlainParameters& parameters, const Batch& batch,
                     const PlainOptions& options) {
  PlainResult result;
  for (const auto& [name, values] : parameters) result.gradients[name] = Vector(values.size());
  const at::Tensor inputs = batch.inputs.to(at::kDouble).contiguous(), targets = batch.targets.contiguous();
  const int64_t channels = inputs.size(2);
  for (int64_t row = 0; row < batch.rows(); ++row) {
    std::vector<Vector> row_inputs;
    for (int64_t t = 0; t < batch.steps(); ++t) {
      const double* x = inputs.const_data_ptr<double>() + (row * batch.steps() + t) * channels;
      row_inputs.emplace_back(x, x + channels);
    }
    const int64_t* target = targets.const_data_ptr<int64_t>() + row * batch.steps();
    PlainRow plain(config, parameters, options, result);
    plain.Forward(row_inputs, {target, target + batch.steps()});
    if (!options.forward_only) plain.Backward();
  }
  return result;
}

}  // namespace sab::model
