#pragma once

#include <cstdint>

#include "sab/v1/spec.pb.h"

namespace sab::testing_util {

// A small valid job: copy, as many replicas as asked for.
inline v1::JobSpec CopySpec(int64_t replicas = 1) {
  v1::JobSpec spec;
  spec.set_name("copy");
  spec.mutable_model()->set_hidden_size(8);
  spec.mutable_task()->set_kind(v1::TASK_KIND_COPY);
  spec.mutable_task()->set_length(5);
  spec.mutable_train()->set_steps(100);
  spec.mutable_resources()->set_replicas(replicas);
  return spec;
}

}  // namespace sab::testing_util
