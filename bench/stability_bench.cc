// What the choices of initial values, weights and memory do to training: the authors' form and our defaults on the copy
// task, and each with one choice exchanged. Behind docs/TUNING.md.
//
//   bench_stability [key=value ...]
//     length=100 one_hot=0 hidden=128 batch=64 updates=300 rate=0.001 clip=1 seed=1 tie_guard=0.01
//     score=mlp|separable  engine=auto|reference  only=TEXT (variants whose name holds it)  eval=LENGTH,LENGTH,...
//     target=0 (stop at this accuracy, measured every 200 updates)
//
// A line a variant: norms of the gradient before clipping (first, median, largest), largest |h_t| over sqrt(H), loss,
// accuracy of the last updates, share of (row, step) pairs that the guard held back, milliseconds an update.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/engine.h"
#include "model/tasks/task.h"
#include "model/train/optimizer.h"

namespace sab::model {
namespace {

using Options = std::map<std::string, std::string>;

struct Variant {
  std::string name;
  ModelConfig config;
};

ModelConfig Authors() {
  return {.tie_guard = 0, .dense = Dense::kRaw, .memory_state = MemoryState::kRecalled, .init = Init::kPaper};
}

ModelConfig Lstm(int64_t k_trunc) {
  return {.kind = Kind::kLstm, .k_trunc = k_trunc};
}

template <typename Change>
ModelConfig With(ModelConfig config, const Change& change) {
  change(config);
  return config;
}

std::vector<Variant> Variants(double tie_guard) {
  const auto softmax = [](ModelConfig& c) { c.dense = Dense::kSoftmax; };
  const auto raw = [](ModelConfig& c) { c.dense = Dense::kRaw; };
  const auto scaled = [](ModelConfig& c) { c.init = Init::kScaled; };
  const auto paper = [](ModelConfig& c) { c.init = Init::kPaper; };
  const auto provisional = [](ModelConfig& c) { c.memory_state = MemoryState::kProvisional; };
  const auto recalled = [](ModelConfig& c) { c.memory_state = MemoryState::kRecalled; };
  const auto guarded = [tie_guard](ModelConfig& c) { c.tie_guard = tie_guard; };
  const auto unguarded = [](ModelConfig& c) { c.tie_guard = 0; };
  const ModelConfig ours = With(ModelConfig(), guarded);
  return {{"authors", Authors()},
          {"authors, softmax", With(Authors(), softmax)},
          {"authors, scaled", With(Authors(), scaled)},
          {"authors, provisional", With(Authors(), provisional)},
          {"authors, guard", With(Authors(), guarded)},
          {"defaults", ours},
          {"defaults, raw", With(ours, raw)},
          {"defaults, paper", With(ours, paper)},
          {"defaults, recalled", With(ours, recalled)},
          {"defaults, no guard", With(ours, unguarded)},
          {"lstm", Lstm(0)},
          {"lstm, k_trunc 5", Lstm(5)}};
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

class Bench {
 public:
  explicit Bench(Options options) : options_(std::move(options)) {
    task_config_ = {.kind = TaskKind::kCopy,
                    .seed = static_cast<uint64_t>(Integer("seed")),
                    .batch_size = Integer("batch"),
                    .length = Integer("length"),
                    .one_hot = Integer("one_hot") != 0};
    task_ = MakeTask(task_config_);
  }

  void Run() const {
    std::printf("| %-20s | %8s | %8s | %6s | %6s | %6s | %8s | %7s | %9s | %7s | %6s |\n", "variant", "g median",
                "g max", "g>100", "max h", "loss", "accuracy", "guarded", "at chance", "updates", "ms");
    for (Variant variant : Variants(Number("tie_guard"))) {
      if (variant.name.find(options_.at("only")) == std::string::npos) continue;
      variant.config.hidden_size = Integer("hidden");
      variant.config.seed = task_config_.seed;
      if (options_.at("score") == "separable") variant.config.score = Score::kSeparable;
      if (options_.at("engine") == "reference") variant.config.engine = EngineKind::kReference;
      Train(variant);
    }
  }

 private:
  double Number(const std::string& key) const { return std::stod(options_.at(key)); }
  int64_t Integer(const std::string& key) const { return std::stoll(options_.at(key)); }

  void Train(const Variant& variant) const {
    ParameterSet parameters(variant.config, task_->shape(), at::kCPU);
    const auto engine = MakeEngine(variant.config, task_->shape(), parameters);
    const auto optimizer = MakeOptimizer({}, parameters.values());
    const int64_t updates = Integer("updates"), rows = Integer("batch");
    std::vector<double> norms, losses;
    PassSums recent;  // of the last tenth
    double max_norm = 0;
    int64_t done = 0;
    const auto start = std::chrono::steady_clock::now();
    for (int64_t step = 1; step <= updates; ++step, ++done) {
      const Batch batch = task_->TrainingBatch(step, task_->length(), {0, rows});
      const double count = static_cast<double>(task_->TrainingLossCount(step, task_->length(), rows));
      parameters.gradients().zero_();
      const PassSums sums = engine->ForwardBackward(batch, 1 / count);
      norms.push_back(GradientNorm(parameters.gradients()));
      losses.push_back(sums.loss_sum / count);
      max_norm = std::max(max_norm, sums.max_hidden_norm);
      if (step > updates - std::max<int64_t>(1, updates / 10)) recent += sums;
      if (!std::isfinite(norms.back())) continue;  // skipped, as a job does
      const double scale = std::min(1.0, Number("clip") / (norms.back() + 1e-6));
      optimizer->Step(parameters.values(), parameters.gradients(), Number("rate"), scale);
      if (step % 200 == 0 && Reached(*engine, &recent)) break;
    }
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
    const double pairs = static_cast<double>(recent.loss_count);
    const auto above = std::count_if(norms.begin(), norms.end(), [](double norm) { return !(norm <= 100); });
    std::printf("| %-20s | %8.2g | %8.2g | %5.1f%% | %6.3g | %6.4f | %7.1f%% | %6.1f%% | %9s | %7ld | %6.1f |\n",
                variant.name.c_str(), Median(norms), *std::max_element(norms.begin(), norms.end()),
                100.0 * static_cast<double>(above) / static_cast<double>(norms.size()),
                max_norm / std::sqrt(Number("hidden")), recent.loss_sum / pairs, Accuracy(recent),
                100 * static_cast<double>(recent.guarded_count) / pairs, AtChance(losses).c_str(),
                static_cast<long>(done), spent.count() / static_cast<double>(norms.size()));
    Transfer(*engine);
    std::fflush(stdout);
  }

  // The update from which on the mean loss of 20 updates stays near chance; "never".
  std::string AtChance(const std::vector<double>& losses) const {
    constexpr size_t kWindow = 20;
    const double chance = 10 * std::log(8.0) / (Number("length") + 20);
    size_t update = losses.size();
    double sum = 0;
    for (size_t i = losses.size(); i-- > 0;) {
      sum += losses[i];
      if (i + kWindow > losses.size()) continue;
      if (i + kWindow < losses.size()) sum -= losses[i + kWindow];
      if (!(sum / kWindow <= 1.1 * chance)) break;
      update = i;
    }
    return update + kWindow > losses.size() ? "never" : std::to_string(update + 1);
  }

  static double Accuracy(const PassSums& sums) {
    return 100 * static_cast<double>(sums.correct_count) / static_cast<double>(sums.scored_count);
  }

  bool Reached(Engine& engine, PassSums* recent) const {
    if (Number("target") <= 0) return false;
    const PassSums sums = engine.Evaluate(task_->EvaluationBatch(task_->length(), {0, 128}));
    if (Accuracy(sums) < Number("target")) return false;
    *recent = sums;
    return true;
  }

  void Transfer(Engine& engine) const {
    std::istringstream lengths(options_.at("eval"));
    for (std::string length; std::getline(lengths, length, ',');) {
      const PassSums sums = engine.Evaluate(task_->EvaluationBatch(std::stoll(length), {0, 128}));
      std::printf("    at length %s: accuracy %.1f%%\n", length.c_str(), Accuracy(sums));
    }
  }

  const Options options_;
  TaskConfig task_config_;
  std::unique_ptr<Task> task_;
};

Options Parse(int argc, char** argv) {
  Options options = {{"length", "100"},  {"one_hot", "0"}, {"hidden", "128"}, {"batch", "64"},       {"updates", "300"},
                     {"rate", "0.001"},  {"clip", "1"},    {"seed", "1"},     {"tie_guard", "0.01"}, {"score", "mlp"},
                     {"engine", "auto"}, {"only", ""},     {"eval", ""},      {"target", "0"}};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.find('=');
    if (equals == std::string::npos || options.count(word.substr(0, equals)) == 0) {
      throw std::invalid_argument("unknown option " + word + ": see the head of bench/stability_bench.cc");
    }
    options[word.substr(0, equals)] = word.substr(equals + 1);
  }
  return options;
}

}  // namespace
}  // namespace sab::model

int main(int argc, char** argv) {
  try {
    sab::model::Bench(sab::model::Parse(argc, argv)).Run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_stability: %s\n", error.what());
    return 2;
  }
}
