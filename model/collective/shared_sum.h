#pragma once

#include <cstddef>
#include <cstdint>

namespace sab::model {

// first[i] = the sum over s of sources[s][i] for i < count, added up in pairs: ((0 + 1) + (2 + 3)) + ((4 + 5) + ...);
// and the same into `second` unless it is null. The bits do not depend on where a range is cut. Each destination may be
// one of the sources itself, and overlaps none otherwise. source_count is at least 1.
using SumFunction = void (*)(const std::byte* const* sources, int source_count, int64_t count, std::byte* first,
                             std::byte* second);

void SumFloats(const std::byte* const* sources, int source_count, int64_t count, std::byte* first, std::byte* second);
void SumDoubles(const std::byte* const* sources, int source_count, int64_t count, std::byte* first, std::byte* second);
void SumInt64s(const std::byte* const* sources, int source_count, int64_t count, std::byte* first, std::byte* second);

}  // namespace sab::model
