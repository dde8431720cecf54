#pragma once

#include <cstdint>
#include <vector>

#include "model/batch.h"

namespace sab::model {

// A stream a row for recall: random, from the row's own input: it does not depend on the batch around the row, on ranks
// or on the number of earlier passes. Waits for the device.
std::vector<uint64_t> RowStreams(const Batch& batch);

}  // namespace sab::model
