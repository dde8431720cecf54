#include "client/cli/chart.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/format.h"

namespace sab::client {
namespace {

constexpr int kAxis = 10;

// Mean of the finite values of each column; NaN where there is none.
std::vector<double> Columns(const Series& series, int count) {
  std::vector<double> sums(count, 0), numbers(count, 0);
  const double first = series.front().first;
  const double span = std::max(series.back().first - first, 1e-9);
  for (const auto& [x, y] : series) {
    if (!std::isfinite(y)) continue;
    const int column = std::clamp(static_cast<int>((x - first) / span * (count - 1) + 0.5), 0, count - 1);
    sums[column] += y;
    numbers[column] += 1;
  }
  for (int i = 0; i < count; ++i) sums[i] = numbers[i] > 0 ? sums[i] / numbers[i] : std::nan("");
  return sums;
}

}  // namespace

std::string Chart(const Series& series, int width, int height) {
  if (series.empty()) return "";
  const int count = std::max(width - kAxis - 3, 8);
  const std::vector<double> columns = Columns(series, count);
  double low = std::nan(""), high = std::nan("");
  for (double y : columns) {
    low = std::fmin(low, y);
    high = std::fmax(high, y);
  }
  if (std::isnan(low)) return "(no finite values)\n";
  const double span = high > low ? high - low : 1;
  std::vector<std::string> rows(height, std::string(count, ' '));
  for (int i = 0; i < count; ++i) {
    if (std::isnan(columns[i])) continue;
    const int row = std::clamp(static_cast<int>((high - columns[i]) / span * (height - 1) + 0.5), 0, height - 1);
    rows[row][i] = '*';
  }
  std::string text;
  for (int row = 0; row < height; ++row) {
    const bool labelled = row == 0 || row == height - 1 || row == height / 2;
    const std::string label = labelled ? FormatNumber(high - span * row / (height - 1)) : "";
    std::string line = absl::StrFormat("%*s | ", kAxis, label) + rows[row];
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, line, "\n");
  }
  const std::string left = absl::StrCat("step ", static_cast<int64_t>(series.front().first));
  const std::string right = absl::StrCat(static_cast<int64_t>(series.back().first));
  const int gap = std::max(1, count - static_cast<int>(left.size() + right.size()));
  absl::StrAppend(&text, std::string(kAxis, ' '), " +", std::string(count + 1, '-'), "\n", std::string(kAxis + 3, ' '),
                  left, std::string(gap, ' '), right, "\n");
  return text;
}

}  // namespace sab::client
