#include "model/reference/recurrence.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "model/random.h"
#include "model/reference/memory_bank.h"

namespace sab::model {
namespace {

using at::Tensor;

constexpr double kEpsilon = 1e-7;

// w . tanh(key + query): keys (n,B,H), query (B,H) -> (n,B).
// A sum of its own for each memory, not one product: a BLAS may round its rows differently by where they lie (MKL does
// on Zen 5), and then equal memories were no tie.
Tensor MlpScores(const Weights& weights, const Tensor& keys, const Tensor& query) {
  return ((keys + query).tanh_() * weights.score).sum(-1);
}

// weights (n,B), memories (n,B,H) -> (B,H).
Tensor WeightedSum(const Tensor& weights, const Tensor& memories) {
  return (weights.unsqueeze(2) * memories).sum(0);
}

CellState ZeroState(const ModelConfig& config, const Weights& weights, int64_t rows) {
  const Tensor zero = at::zeros({rows, config.hidden_size}, weights.output_bias.options());
  return {zero, zero};
}

// Step 1 of sab.md's step: cuts the gradient at the grid of k_trunc. `step` counts from 1.
void CutGradient(const ModelConfig& config, int64_t step, CellState& state) {
  if (config.k_trunc == 0 || step % config.k_trunc != 0) return;
  state.h = state.h.detach();
  if (config.truncate == Truncate::kBoth) state.c = state.c.detach();
}

class LstmRecurrence : public Recurrence {
 public:
  LstmRecurrence(const ModelConfig& config, const Weights& weights, int64_t rows)
      : config_(config), weights_(weights), state_(ZeroState(config, weights, rows)) {}

  States Advance(const Tensor& projected) override {
    std::vector<Tensor> hidden;
    for (const Tensor& step_input : projected.unbind(0)) {
      CutGradient(config_, ++step_, state_);
      state_ = StepCell(weights_, step_input, state_);
      hidden.push_back(state_.h);
    }
    return {.hidden = at::stack(hidden)};
  }

 private:
  const ModelConfig config_;
  const Weights& weights_;
  CellState state_;
  int64_t step_ = 0;
};

// Full self-attention over the zero state and all earlier h; what is read does not enter the recurrence.
class AttentionRecurrence : public Recurrence {
 public:
  AttentionRecurrence(const ModelConfig& config, const Weights& weights, int64_t rows)
      : config_(WithoutTruncation(config)), weights_(weights), lstm_(config_, weights, rows) {
    memories_ = ZeroState(config, weights, rows).h.unsqueeze(0);
    keys_ = memories_;
  }

  States Advance(const Tensor& projected) override {
    const Tensor hidden = lstm_.Advance(projected).hidden;
    const std::vector<Tensor> queries = Product(hidden, weights_.query).unbind(0);
    const int64_t known = memories_.size(0);
    memories_ = at::cat({memories_, hidden});
    keys_ = at::cat({keys_, Product(hidden, weights_.memory)});
    std::vector<Tensor> context;
    for (size_t i = 0; i < queries.size(); ++i) {
      const int64_t n = known + static_cast<int64_t>(i);
      Tensor alpha = MlpScores(weights_, keys_.narrow(0, 0, n), queries[i]);
      if (config_.normaliser == Normaliser::kSoftmax) alpha = alpha.softmax(0);
      context.push_back(WeightedSum(alpha, memories_.narrow(0, 0, n)));
    }
    return {.hidden = hidden, .context = at::stack(context)};
  }

 private:
  static ModelConfig WithoutTruncation(ModelConfig config) {
    config.k_trunc = 0;
    return config;
  }

  const ModelConfig config_;
  const Weights& weights_;
  LstmRecurrence lstm_;
  Tensor memories_;  // (n,B,H)
  Tensor keys_;      // (n,B,H)
};

class SabRecurrence : public Recurrence {
 public:
  SabRecurrence(const ModelConfig& config, const Weights& weights, int64_t rows, std::vector<uint64_t> row_streams)
      : config_(config),
        weights_(weights),
        row_streams_(std::move(row_streams)),
        state_(ZeroState(config, weights, rows)),
        bank_(config) {
    bank_.Append(state_.h, IsMlp() ? state_.h : state_.h.select(1, 0));  // m_1 = 0: its key is 0, without a product
  }

  States Advance(const Tensor& projected) override {
    std::vector<Tensor> hidden, context;
    guarded_.clear();
    for (const Tensor& step_input : projected.unbind(0)) {
      CutGradient(config_, ++step_, state_);
      state_ = StepCell(weights_, step_input, state_);
      const Tensor provisional = state_.h;
      const Tensor recalled = Recall(provisional);
      state_.h = provisional + recalled;
      if (step_ % config_.k_att == 0) Write(config_.memory_state == MemoryState::kRecalled ? state_.h : provisional);
      hidden.push_back(state_.h);
      context.push_back(recalled);
    }
    States states{.hidden = at::stack(hidden), .context = at::stack(context)};
    if (!guarded_.empty()) states.guarded = at::stack(guarded_);
    return states;
  }

 private:
  bool IsMlp() const { return config_.score == Score::kMlp; }

  void Write(const Tensor& state) {
    const Tensor memory = config_.mental_updates ? state : state.detach();
    const Tensor scored = config_.detach_scores ? memory.detach() : memory;
    bank_.Append(memory, IsMlp() ? Product(scored, weights_.memory) : at::matmul(scored.tanh(), weights_.memory_score));
  }

  // The query's part of the scores. For `separable` it shifts all scores of a row alike, so only raw scores need it.
  Tensor Query(const Tensor& provisional) const {
    const Tensor scored = config_.detach_scores ? provisional.detach() : provisional;
    if (IsMlp()) return Product(scored, weights_.query);
    return at::matmul(scored.tanh(), weights_.query_score);
  }

  Tensor Scores(const Tensor& keys, const Tensor& query) const {
    if (IsMlp()) return MlpScores(weights_, keys, query);
    return query.defined() ? keys + query : keys;
  }

  // s_t (B,H) for the cell's output (B,H).
  Tensor Recall(const Tensor& provisional) {
    const int64_t n = bank_.size();
    const bool everything = n <= config_.k_top || config_.recall == Recall::kAll;
    const bool sparse = !everything && config_.recall == Recall::kTop;
    const bool uses_query = IsMlp() || (!sparse && config_.dense == Dense::kRaw);
    const Tensor query = uses_query ? Query(provisional) : Tensor();
    if (sparse) return SparseRecall(query);
    if (config_.tie_guard > 0) guarded_.push_back(NothingGuarded());
    if (everything) return DenseRecall(query, Tensor());
    return DenseRecall(query, config_.recall == Recall::kLast ? LastIndex() : RandomIndex());
  }

  // The memories at index (k,B), or all when it is undefined, weighted by the setting `dense`.
  Tensor DenseRecall(const Tensor& query, const Tensor& index) {
    const Tensor keys = index.defined() ? PickMemories(bank_.keys(), index) : bank_.keys();
    const Tensor memories = index.defined() ? PickMemories(bank_.states(), index) : bank_.states();
    const Tensor scores = Scores(keys, query);
    const Tensor alpha = config_.dense == Dense::kSoftmax ? scores.softmax(0) : scores;
    Credit(index, alpha);
    return WeightedSum(alpha, memories);
  }

  // Only the k_top best and the next one are scored under autograd: no other score has a gradient.
  Tensor SparseRecall(const Tensor& query) {
    const int64_t k = config_.k_top;
    const Tensor best = BestIndex(query, k + 1);  // (k+1,B)
    const Tensor index = best.narrow(0, 0, k);
    const Tensor scores = Scores(PickMemories(bank_.keys(), best), query);
    const Tensor gaps = (scores.narrow(0, 0, k) - scores.narrow(0, k, 1)).relu();
    const Tensor total = gaps.sum(0, /*keepdim=*/true) + kEpsilon;  // Z (1,B)
    Tensor alpha = gaps / total;
    if (config_.tie_guard > 0) {
      const Tensor guarded = total.detach() < config_.tie_guard;
      guarded_.push_back(guarded.squeeze(0));
      alpha = at::where(guarded, alpha.detach(), alpha);
    }
    Credit(index, alpha);
    return WeightedSum(alpha, PickMemories(bank_.states(), index));
  }

  // By score descending, index ascending: a stable sort, never a top-k that breaks ties by chance.
  Tensor BestIndex(const Tensor& query, int64_t count) const {
    const at::NoGradGuard no_grad;
    const Tensor scores = Scores(bank_.keys(), query);
    return std::get<1>(scores.sort(/*stable=*/true, 0, /*descending=*/true)).narrow(0, 0, count);
  }

  Tensor LastIndex() const {
    const int64_t k = config_.k_top, n = bank_.size();
    const Tensor last = at::arange(n - k, n, state_.h.options().dtype(at::kLong));
    return last.unsqueeze(1).expand({k, state_.h.size(0)});
  }

  // k_top distinct memories a row, ascending: a function of (seed, the row's stream, step) alone.
  Tensor RandomIndex() const {
    const int64_t k = config_.k_top, n = bank_.size(), rows = state_.h.size(0);
    Tensor index = at::empty({k, rows}, at::TensorOptions().dtype(at::kLong));
    auto* out = index.mutable_data_ptr<int64_t>();
    for (int64_t row = 0; row < rows; ++row) {
      Random random(config_.seed, row_streams_.at(row), static_cast<uint32_t>(step_));
      std::vector<int64_t> chosen;  // Floyd's sampling without replacement
      for (int64_t last = n - k; last < n; ++last) {
        const auto drawn = static_cast<int64_t>(random.Below(last + 1));
        const bool taken = std::find(chosen.begin(), chosen.end(), drawn) != chosen.end();
        chosen.push_back(taken ? last : drawn);
      }
      std::sort(chosen.begin(), chosen.end());
      for (int64_t i = 0; i < k; ++i) out[i * rows + row] = chosen[i];
    }
    return index.to(state_.h.device());
  }

  void Credit(const Tensor& index, const Tensor& alpha) {
    if (config_.memory_capacity == 0) return;
    const at::NoGradGuard no_grad;
    const Tensor all = at::arange(bank_.size(), state_.h.options().dtype(at::kLong)).unsqueeze(1);
    bank_.Credit(index.defined() ? index : all.expand_as(alpha), alpha);
  }

  Tensor NothingGuarded() const { return at::zeros({state_.h.size(0)}, state_.h.options().dtype(at::kBool)); }

  const ModelConfig config_;
  const Weights& weights_;
  const std::vector<uint64_t> row_streams_;
  CellState state_;
  MemoryBank bank_;
  int64_t step_ = 0;
  std::vector<Tensor> guarded_;  // (B) a step of the present call
};

}  // namespace

std::unique_ptr<Recurrence> MakeRecurrence(const ModelConfig& config, const Weights& weights, int64_t rows,
                                           std::vector<uint64_t> row_streams) {
  switch (config.kind) {
    case Kind::kLstm:
      return std::make_unique<LstmRecurrence>(config, weights, rows);
    case Kind::kAttention:
      return std::make_unique<AttentionRecurrence>(config, weights, rows);
    case Kind::kSab:
      break;
  }
  return std::make_unique<SabRecurrence>(config, weights, rows, std::move(row_streams));
}

}  // namespace sab::model
