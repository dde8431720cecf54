#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "sab/v1/spec.pb.h"

namespace sab::spec {

// A parameter of a network as model/parameters.h names it.
struct ParameterShape {
  std::string name;
  std::vector<int64_t> shape;  // kUnknownSize where only the data say how large it is
};
inline constexpr int64_t kUnknownSize = -1;

// The parameters of the spec's network, in the order of model/parameters.h. `spec` has no violations. Pure.
std::vector<ParameterShape> ParametersOf(const v1::JobSpec& spec);

// Why a network of `spec` cannot take the parameters `stored`, which `checkpoint` (a resource name) holds and a job
// with the settings `trained` has written; empty: it can, as far as the spec alone tells. Names the tensor, and the
// settings that differ. Pure.
std::vector<FieldViolation> CheckFits(const v1::JobSpec& spec, const std::string& checkpoint,
                                      const v1::JobSpec& trained, const std::vector<ParameterShape>& stored);

}  // namespace sab::spec
