#include "model/cuda/cuda_engine.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>
#include <dlfcn.h>

#include <stdexcept>

#include "model/cuda/graphed_passes.h"
#include "model/cuda/outer_layers.h"
#include "model/cuda/pass.h"
#include "model/reference/loss.h"
#include "model/reference/tf32.h"

namespace sab::model {
namespace {

using at::Tensor;
using cuda::Launcher;
using cuda::Plan;

template <class T>
class CudaEngine : public Engine {
 public:
  CudaEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters,
             std::unique_ptr<Launcher> launcher)
      : config_(config),
        shape_(shape),
        parameters_(parameters),
        launcher_(std::move(launcher)),
        graphed_([this](const Batch& batch, double loss_scale) { return Train(batch, loss_scale); }, parameters,
                 *launcher_) {}

  PassSums ForwardBackward(const Batch& batch, double loss_scale) override {
    if (batch.rows() == 0) return {};
    const c10::DeviceGuard device(parameters_.values().device());
    const Tf32Scope tf32(AllowsTf32());
    const bool may_have_graph = cuda::GraphBytes(config_, shape_, batch.rows(), batch.steps()) > 0;
    return ToSums(may_have_graph ? graphed_.Run(batch, loss_scale) : Train(batch, loss_scale));
  }

  PassSums Evaluate(const Batch& batch) override {
    if (batch.rows() == 0) return {};
    const c10::DeviceGuard device(parameters_.values().device());
    const at::NoGradGuard no_grad;
    const Tf32Scope tf32(AllowsTf32());
    const cuda::OuterLayers layers(config_, shape_, parameters_, /*with_gradients=*/false);
    return cuda::Pass<T>(PlanOf(batch, false), parameters_, layers, batch, *launcher_).Evaluate();
  }

  Tensor Outputs(const Batch& batch) override {
    const c10::DeviceGuard device(parameters_.values().device());
    const at::NoGradGuard no_grad;
    const Tf32Scope tf32(AllowsTf32());
    const cuda::OuterLayers layers(config_, shape_, parameters_, /*with_gradients=*/false);
    return cuda::Pass<T>(PlanOf(batch, false), parameters_, layers, batch, *launcher_).Outputs();
  }

 private:
  Tensor Train(const Batch& batch, double loss_scale) {
    const cuda::OuterLayers layers(config_, shape_, parameters_, /*with_gradients=*/true);
    return cuda::Pass<T>(PlanOf(batch, true), parameters_, layers, batch, *launcher_).Train(loss_scale);
  }

  bool AllowsTf32() const { return config_.precision == Precision::kTf32 || config_.precision == Precision::kBf16; }
  Plan PlanOf(const Batch& batch, bool backward) const {
    return cuda::MakePlan(config_, batch.rows(), batch.steps(), backward, launcher_->Limits());
  }

  const ModelConfig config_;
  const TaskShape shape_;
  ParameterSet& parameters_;
  const std::unique_ptr<Launcher> launcher_;
  cuda::GraphedPasses graphed_;
};

std::unique_ptr<Launcher> LoadLauncher() {
  constexpr char kModule[] = "libsab_cuda.so";
  void* module = dlopen(kModule, RTLD_NOW | RTLD_GLOBAL);
  if (module == nullptr) throw std::runtime_error(std::string("cannot load the CUDA kernels: ") + dlerror());
  void* make = dlsym(module, cuda::kMakeLauncherSymbol);
  if (make == nullptr) throw std::runtime_error(std::string(kModule) + " of this build has no kernels");
  return std::unique_ptr<Launcher>(reinterpret_cast<cuda::MakeLauncherFunction>(make)());
}

}  // namespace

bool CudaEngineSupports(const ModelConfig& config, const TaskShape& shape, at::Device device, std::string* why_not) {
  const char* why = device.is_cuda() ? cuda::WhyNotCuda(config) : "device: the CUDA engine runs on a GPU";
  if (why != nullptr && why_not != nullptr) *why_not = why;
  return why == nullptr;
}

std::unique_ptr<Engine> MakeCudaEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters,
                                       std::unique_ptr<Launcher> launcher) {
  if (const char* why = cuda::WhyNotCuda(config)) throw std::invalid_argument(why);
  if (config.precision == Precision::kFp64)
    return std::make_unique<CudaEngine<double>>(config, shape, parameters, std::move(launcher));
  return std::make_unique<CudaEngine<float>>(config, shape, parameters, std::move(launcher));
}

std::unique_ptr<Engine> MakeCudaEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters) {
  return MakeCudaEngine(config, shape, parameters, LoadLauncher());
}

}  // namespace sab::model
