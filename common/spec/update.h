#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "sab/v1/job.pb.h"
#include "sab/v1/spec.pb.h"

// Changes of a job's settings while it is not finished. Pure.
namespace sab::spec {

// Takes the settings `fields` (paths: train.learning_rate) from `values` into `spec`, whose defaults are resolved, and
// resolves those that they leave open. Violations: a path that does not exist, or a setting that is fixed for the life
// of a job, with the reason; `spec` is unchanged then. What the values are is not looked at: see Validate. `training`:
// those of the fields that the trainers must know, and whose value is another one than before.
std::vector<FieldViolation> ApplyUpdate(const std::vector<std::string>& fields, const v1::JobSpec& values,
                                        v1::JobSpec* spec, std::vector<std::string>* training);

// A spec with these settings of `spec` alone.
v1::JobSpec Pick(const std::vector<std::string>& fields, const v1::JobSpec& spec);

// Takes a change of `spec` back.
void Undo(const v1::SpecChange& change, v1::JobSpec* spec);

using SpecChanges = google::protobuf::RepeatedPtrField<v1::SpecChange>;

// The settings that step `step` is trained with, by those of now and the changes that led to them, oldest first.
v1::JobSpec SpecOfStep(const v1::JobSpec& spec, const SpecChanges& changes, int64_t step);

// Training goes on from `step`, with all that was changed so far: changes without a step, and if there are any those
// of later steps too (an older checkpoint is trained on from, in another way than before), take effect after it.
void Settle(int64_t step, SpecChanges* changes);

}  // namespace sab::spec
