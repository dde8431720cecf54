#pragma once

#include <string>
#include <utility>
#include <vector>

namespace sab::client {

// (x, y), in order of x.
using Series = std::vector<std::pair<double, double>>;

// Draws a series in text, `width` columns by `height` rows of points with both axes labelled. Points that share a
// column are averaged; values that are not finite are left out.
std::string Chart(const Series& series, int width, int height);

}  // namespace sab::client
