#pragma once

#include <string>

#include "worker/trainer/trainer.h"

namespace sab::trainer {

// Runs a job that does not train: evaluates, predicts or samples with the parameters of its checkpoint. Steps that it
// reports are pieces of work done: sequences, rows, bytes. Figures of an evaluation carry the checkpoint's step. A
// result is written and published as a checkpoint is. Returns why it ended: "done", "leave" when it was asked to
// (nothing is kept: it starts anew), "" when it was interrupted. Blocks; throws as Replica::Run.
std::string RunAction(const v1::GetAssignmentResponse& assignment, const Replica::Connections& with, PulseMeter& pulse);

}  // namespace sab::trainer
