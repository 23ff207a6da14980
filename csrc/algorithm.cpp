#include "algorithm.h"

#include <c10/util/Exception.h>

#include <limits>

#include "rules/variants.h"

namespace onepass {
namespace {

template <std::size_t... part>
std::vector<Algorithm> all_rows(std::index_sequence<part...> /*all*/) {
  std::vector<Algorithm> rows;
  (std::ranges::move(rows_of_part<part>(), std::back_inserter(rows)), ...);
  return rows;
}

using Limits = std::numeric_limits<double>;

// By Range: the smallest and the largest value, and what an error message says.
constexpr struct {
  double smallest, largest;
  const char* words;
} kRanges[] = {
    {0.0, Limits::max(), "finite and not negative"},
    {0.0, 1.0 - Limits::epsilon() / 2.0, "in [0, 1)"},
    {0.0, 1.0, "in [0, 1]"},
    {Limits::denorm_min(), 1.0 - Limits::epsilon() / 2.0, "in (0, 1)"},
    {1.0 + Limits::epsilon(), Limits::max(), "finite and over 1"},
    {-Limits::max(), Limits::max(), "finite"},
    {0.0, 1.0, "true or false"},
};

}  // namespace

std::span<const Algorithm> algorithms() {
  static const std::vector<Algorithm> rows = all_rows(std::make_index_sequence<kParts>{});
  return rows;
}

std::pair<double, double> interval_of(Range range) {
  const auto& row = kRanges[static_cast<int>(range)];
  return {row.smallest, row.largest};
}

void reject(const HyperInfo& hyper, const std::string& shown, const std::string& where) {
  TORCH_CHECK_VALUE(false, "Invalid ", hyper.label, ": ", shown, " (", where, "; ", hyper.name,
                    " must be ", kRanges[static_cast<int>(hyper.range)].words, ")");
}

const Algorithm& algorithm(std::string_view name) {
  for (const Algorithm& row : algorithms())
    if (row.name == name) return row;
  TORCH_CHECK_VALUE(false, "onepass has no algorithm called '", name, "'");
}

}  // namespace onepass
