#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "model/cuda/launcher.h"
#include "model/engine.h"

namespace sab::model {

// Whether the fused CUDA engine computes this network on `device`: all four systems in every precision, but not
// `recall: all | random`, k_top above 31, or some bounded memories. Otherwise false, and `why_not` (may be null) names
// the setting.
bool CudaEngineSupports(const ModelConfig& config, const TaskShape& shape, at::Device device,
                        std::string* why_not = nullptr);

// The fused CUDA engine: sweeps over the sequence in kernels of `launcher`, and LibTorch for what is one large product
// (inputs, outputs and loss, the weights' gradients). Its results are those of the reference up to rounding, and the
// same bits in every run on one kind of GPU. bf16 and tf32 concern the large products and, bf16, the weights that
// sweeps hold; states, scores and sums are in fp32. `parameters` must outlive it. Everything is enqueued on the current
// stream; a pass waits for the GPU once, at its end. Training passes of one shape in a row are replayed from a CUDA
// graph (GraphedPasses), to the same bits, unless config.cuda_graphs is off. The parameters may be on a CPU when the
// launcher is the emulator.
std::unique_ptr<Engine> MakeCudaEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters,
                                       std::unique_ptr<cuda::Launcher> launcher);

// The same with the kernels of libsab_cuda.so, which it loads. Throws std::runtime_error when that fails.
std::unique_ptr<Engine> MakeCudaEngine(const ModelConfig& config, const TaskShape& shape, ParameterSet& parameters);

}  // namespace sab::model
