#include "model/parameters.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <stdexcept>

#include "model/random.h"

namespace sab::model {
namespace {

enum class Distribution { kUniform, kNormal };

struct Layout {
  std::string name;
  std::vector<int64_t> shape;
  Distribution distribution;
  double scale;  // bound of the uniform, standard deviation of the normal
};

void CheckShape(const ModelConfig& config, const TaskShape& shape) {
  const auto refuse = [](const std::string& text) { throw std::invalid_argument(text); };
  if (config.hidden_size < 1) refuse("hidden_size: must be at least 1, got " + std::to_string(config.hidden_size));
  if (config.embedding_size < 0)
    refuse("embedding_size: must be at least 0, got " + std::to_string(config.embedding_size));
  if (shape.outputs < 1) refuse("outputs: must be at least 1, got " + std::to_string(shape.outputs));
  if ((shape.inputs > 0) == (shape.vocabulary > 0)) {
    refuse("a network reads either inputs or symbols: got inputs " + std::to_string(shape.inputs) + " and vocabulary " +
           std::to_string(shape.vocabulary));
  }
  if (config.embedding_size > 0 && shape.vocabulary == 0) refuse("embedding_size: the task has no symbols to embed");
  if (config.kind == Kind::kSab && config.k_top < 1)
    refuse("k_top: must be at least 1, got " + std::to_string(config.k_top));
  if (config.kind == Kind::kSab && config.k_att < 1)
    refuse("k_att: must be at least 1, got " + std::to_string(config.k_att));
  if (config.k_trunc < 0) refuse("k_trunc: must be at least 0, got " + std::to_string(config.k_trunc));
}

void AddAttention(const ModelConfig& config, std::vector<Layout>& layout) {
  const int64_t h = config.hidden_size;
  double matrices = 1 / std::sqrt(static_cast<double>(h)), vectors = matrices;
  if (config.init == Init::kPaper) {
    vectors = 0.01;
    matrices = config.kind == Kind::kAttention ? 0.01 : 1;
  }
  if (config.init_std) matrices = vectors = *config.init_std;
  if (config.kind == Kind::kSab && config.score == Score::kSeparable) {
    layout.push_back({"attention.query_score.weight", {h}, Distribution::kNormal, vectors});
    layout.push_back({"attention.memory_score.weight", {h}, Distribution::kNormal, vectors});
    return;
  }
  layout.push_back({"attention.memory.weight", {h, h}, Distribution::kNormal, matrices});
  layout.push_back({"attention.query.weight", {h, h}, Distribution::kNormal, matrices});
  layout.push_back({"attention.score.weight", {h}, Distribution::kNormal, vectors});
}

std::vector<Layout> MakeLayout(const ModelConfig& config, const TaskShape& shape) {
  const int64_t h = config.hidden_size;
  const int64_t inputs = config.embedding_size > 0 ? config.embedding_size : shape.inputs + shape.vocabulary;
  const double cell = 1 / std::sqrt(static_cast<double>(h));
  std::vector<Layout> layout = {{"cell.weight_ih", {4 * h, inputs}, Distribution::kUniform, cell},
                                {"cell.weight_hh", {4 * h, h}, Distribution::kUniform, cell},
                                {"cell.bias_ih", {4 * h}, Distribution::kUniform, cell},
                                {"cell.bias_hh", {4 * h}, Distribution::kUniform, cell}};
  if (config.kind != Kind::kLstm) AddAttention(config, layout);
  const int64_t features = config.kind == Kind::kLstm ? h : 2 * h;
  const double output = 1 / std::sqrt(static_cast<double>(features));
  layout.push_back({"output.weight", {shape.outputs, features}, Distribution::kUniform, output});
  layout.push_back({"output.bias", {shape.outputs}, Distribution::kUniform, output});
  if (config.embedding_size > 0) {
    layout.push_back({"embedding.weight", {shape.vocabulary, config.embedding_size}, Distribution::kNormal, 1});
  }
  return layout;
}

// A stream a name: what the kinds of network have in common starts with the same values.
template <typename T>
void Fill(const Layout& layout, uint64_t seed, T* out, int64_t count) {
  Random random(seed, HashBytes(layout.name.data(), layout.name.size()));
  for (int64_t i = 0; i < count; ++i) {
    const double unit = layout.distribution == Distribution::kNormal ? random.Normal() : 2 * random.Uniform() - 1;
    out[i] = static_cast<T>(unit * layout.scale);
  }
}

int64_t Count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

}  // namespace

ParameterSet::ParameterSet(const ModelConfig& config, const TaskShape& shape, at::Device device) {
  CheckShape(config, shape);
  const std::vector<Layout> layout = MakeLayout(config, shape);
  int64_t total = 0;
  for (const Layout& item : layout) total += Count(item.shape);

  const bool is_double = config.precision == Precision::kFp64;
  const auto type = is_double ? at::kDouble : at::kFloat;
  at::Tensor host = at::empty({total}, at::TensorOptions().dtype(type));
  int64_t offset = 0;
  for (const Layout& item : layout) {
    const int64_t count = Count(item.shape);
    if (is_double) {
      Fill(item, config.seed, host.mutable_data_ptr<double>() + offset, count);
    } else {
      Fill(item, config.seed, host.mutable_data_ptr<float>() + offset, count);
    }
    offset += count;
  }
  values_ = host.to(device);
  gradients_ = at::zeros({total}, at::TensorOptions().dtype(type).device(device));

  offset = 0;
  for (const Layout& item : layout) {
    const int64_t count = Count(item.shape);
    parameters_.push_back({item.name, values_.narrow(0, offset, count).view(item.shape),
                           gradients_.narrow(0, offset, count).view(item.shape)});
    offset += count;
  }
}

const Parameter& ParameterSet::Get(const std::string& name) const {
  for (const Parameter& parameter : parameters_) {
    if (parameter.name == name) return parameter;
  }
  throw std::out_of_range("the network has no parameter " + name);
}

}  // namespace sab::model
