#include "algorithm.h"

#include <c10/util/Exception.h>

#include <iterator>
#include <limits>

#include "../rules/rules.h"

namespace onepass {
namespace {

template <class... Family>
std::vector<Algorithm> algorithms_of_all(FamilyList<Family...> /*all*/) {
  std::vector<Algorithm> algorithms;
  (std::ranges::move(algorithms_of<Family>(), std::back_inserter(algorithms)), ...);
  return algorithms;
}

using Limits = std::numeric_limits<double>;

// By Range: the smallest and the largest value, and what an error message says.
constexpr struct {
  double smallest, largest;
  const char* words;
} kRanges[] = {
    {0.0, Limits::max(), "finite and not negative"},
    {Limits::denorm_min(), Limits::max(), "finite and over 0"},
    {0.0, 1.0 - Limits::epsilon() / 2.0, "in [0, 1)"},
    {0.0, 1.0, "in [0, 1]"},
    {Limits::denorm_min(), 1.0 - Limits::epsilon() / 2.0, "in (0, 1)"},
    {1.0 + Limits::epsilon(), Limits::max(), "finite and over 1"},
    {-Limits::max(), Limits::max(), "finite"},
    {0.0, 1.0, "true or false"},
};

}  // namespace

std::span<const Algorithm> algorithms() {
  static const std::vector<Algorithm> all = algorithms_of_all(Families{});
  return all;
}

std::pair<double, double> interval_of(Range range) {
  const auto& [smallest, largest, words] = kRanges[static_cast<int>(range)];
  return {smallest, largest};
}

void reject(const HyperInfo& hyper, const std::string& shown, const std::string& where) {
  TORCH_CHECK_VALUE(false, "Invalid ", hyper.label, ": ", shown, " (", where, "; ", hyper.name,
                    " must be ", kRanges[static_cast<int>(hyper.range)].words, ")");
}

const Algorithm& algorithm(std::string_view name) {
  for (const Algorithm& algorithm : algorithms())
    if (algorithm.name == name) return algorithm;
  TORCH_CHECK_VALUE(false, "onepass has no algorithm called '", name, "'");
}

}  // namespace onepass
