#include "algorithm.h"

#include <c10/util/Exception.h>

#include <bit>
#include <cmath>
#include <new>

#include "rules/rules.h"
#include "sweep/versions.h"

namespace onepass {
namespace {

template <class Rule, unsigned kPresent>
Loop loop_for(int mix) {
  constexpr int kStates = std::popcount(kPresent);
  using Update32 = typename Rule::template Update<float, kPresent>;
  using Update64 = typename Rule::template Update<double, kPresent>;
  static constexpr std::array<std::array<Loop, kVersions>, kMixCount> table = {
      Versions<&run_loop<Update32, kStates, float, float, float>>::table,
      Versions<&run_loop<Update64, kStates, double, double, double>>::table,
      Versions<&run_loop<Update32, kStates, BFloat16, BFloat16, BFloat16>>::table,
      Versions<&run_loop<Update32, kStates, float, float, BFloat16>>::table,
      Versions<&run_loop<Update32, kStates, BFloat16, BFloat16, float>>::table};
  return table[mix][instruction_set()];
}

template <class Rule, unsigned kPresent>
void coefficients_of(const double* hypers, double step, Float arithmetic, Coefficients& out) {
  Rule rule{};
  for (const auto& hyper : Rule::kHypers) rule.*(hyper.value) = *hypers++;
  const auto construct = [&]<class Real>(Real) {
    using Update = typename Rule::template Update<Real, kPresent>;
    static_assert(sizeof(Update) <= sizeof(Coefficients));
    new (out.bytes) Update(rule, step);
  };
  return arithmetic == Float::kFloat64 ? construct(double{}) : construct(float{});
}

template <class Rule>
constexpr unsigned required_states() {
  unsigned required = 0, bit = 1;
  for (const State& state : Rule::kStates) {
    if (state.only_if == nullptr) required |= bit;
    bit <<= 1;
  }
  return required;
}

// Instantiates the loops for every set of states that holds the required ones.
template <class Rule, unsigned kPresent = 0>
void fill_variants(Algorithm& row) {
  if constexpr (kPresent < (1u << std::size(Rule::kStates))) {
    if constexpr ((kPresent & required_states<Rule>()) == required_states<Rule>())
      row.variants[kPresent] = {&coefficients_of<Rule, kPresent>, &loop_for<Rule, kPresent>};
    fill_variants<Rule, kPresent + 1>(row);
  }
}

template <class Rule>
Algorithm row_of() {
  static_assert(std::size(Rule::kStates) <= kMaxStates && std::size(Rule::kHypers) <= kMaxHypers);
  Algorithm row{Rule::kName, Rule::kNoSparse, Rule::kStates, {}, {}};
  for (const auto& hyper : Rule::kHypers)
    row.hypers.push_back({hyper.name, hyper.key, hyper.index, hyper.label, hyper.range,
                          hyper.scheduled, hyper.optional});
  fill_variants<Rule>(row);
  return row;
}

template <class... Rule>
std::vector<Algorithm> rows_of(RuleList<Rule...>) {
  return {row_of<Rule>()...};
}

}  // namespace

std::span<const Algorithm> algorithms() {
  static const std::vector<Algorithm> rows = rows_of(Rules{});
  return rows;
}

bool in_range(const HyperInfo& hyper, double value) {
  if (hyper.range == Range::kFlag) return true;
  return value >= 0.0 && (hyper.range == Range::kBelowOne ? value < 1.0 : std::isfinite(value));
}

void reject(const HyperInfo& hyper, const std::string& shown, const std::string& where) {
  TORCH_CHECK_VALUE(false, "Invalid ", hyper.label, ": ", shown, " (", where, "; ", hyper.name,
                    hyper.range == Range::kBelowOne ? " must be in [0, 1))"
                                                    : " must be finite and not negative)");
}

const Algorithm& algorithm(std::string_view name) {
  for (const Algorithm& row : algorithms())
    if (row.name == name) return row;
  TORCH_CHECK_VALUE(false, "onepass has no algorithm called '", name, "'");
}

}  // namespace onepass
