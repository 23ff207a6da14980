// From a rule to a row of the table: its loops for all stored types, the types erased.
#pragma once

#include <algorithm>
#include <new>
#include <string_view>

#include "../algorithm.h"
#include "../rules/variants.h"
#include "../sweep/versions.h"

namespace onepass {

template <class Rule, unsigned kPresent>
Loop loop_for(int mix) {
  constexpr int kStates = states_of<Rule, kPresent>();
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

template <class Rule>
Rule rule_with(const double* hypers) {
  Rule rule{};
  for (const auto& hyper : Rule::kHypers) rule.*(hyper.value) = *hypers++;
  return rule;
}

template <class Rule, unsigned kPresent>
void coefficients_of(const double* hypers, double step, Number* numbers, Float arithmetic,
                     Coefficients& out) {
  const Rule rule = rule_with<Rule>(hypers);
  const auto construct = [&]<class Real>(Real) {
    using Update = typename Rule::template Update<Real, kPresent>;
    static_assert(sizeof(Update) <= sizeof(Coefficients));
    if constexpr (std::size(Rule::kNumbers) == 0) {
      new (out.bytes) Update(rule, step);
    } else {
      new (out.bytes) Update(rule, step, numbers);
    }
  };
  return arithmetic == Float::kFloat64 ? construct(double{}) : construct(float{});
}

template <class Rule, unsigned kPresent>
SumLoop sums_of(Float arithmetic) {
  constexpr int kStates = states_of<Rule, kPresent>();
  constexpr int kSquares = Rule::squares(kPresent);
  static_assert(kSquares <= kMaxSquares);
  using Update32 = typename Rule::template Update<float, kPresent>;
  using Update64 = typename Rule::template Update<double, kPresent>;
  static constexpr std::array<std::array<SumLoop, kVersions>, 2> table = {
      Versions<&run_sums<Update32, kStates, kSquares, float>>::table,
      Versions<&run_sums<Update64, kStates, kSquares, double>>::table};
  return table[arithmetic == Float::kFloat64 ? 1 : 0][instruction_set()];
}

template <class Rule, unsigned kPresent>
void finish_coefficients(const double* squares, double size, Number* numbers, Float arithmetic,
                         Coefficients& out) {
  const auto finish = [&]<class Real>(Real) {
    using Update = typename Rule::template Update<Real, kPresent>;
    std::launder(reinterpret_cast<Update*>(out.bytes))->finish(squares, size, numbers);
  };
  return arithmetic == Float::kFloat64 ? finish(double{}) : finish(float{});
}

template <class Rule, unsigned kPresent>
Variant variant_of() {
  Variant variant{&coefficients_of<Rule, kPresent>, &loop_for<Rule, kPresent>, nullptr, nullptr};
  if constexpr (Rule::squares(kPresent) > 0) {
    variant.sums = &sums_of<Rule, kPresent>;
    variant.finish = &finish_coefficients<Rule, kPresent>;
  }
  return variant;
}

template <class Rule>
Algorithm row_of() {
  static_assert(std::size(Rule::kHypers) <= kMaxHypers && std::size(Rule::kNumbers) <= kMaxNumbers);
  Algorithm row{.name = Rule::kName,
                .no_sparse = Rule::kNoSparse,
                .no_sparse_decay = Rule::kNoSparseDecay,
                .is_optimizer = Rule::kIsOptimizer,
                .counts_steps = Rule::kCountsSteps,
                .roles = Rule::kRoles,
                .numbers = Rule::kNumbers,
                .states = Rule::kStates};
  if constexpr (requires { &Rule::kept_without_gradient; })
    row.kept_without_gradient = [](const double* hypers) {
      return rule_with<Rule>(hypers).kept_without_gradient();
    };
  for (const auto& hyper : Rule::kHypers) {
    if (Rule::kOption == hyper.name) row.option = static_cast<int>(row.hypers.size());
    const auto [smallest, largest] = interval_of(hyper.range);
    const auto count = std::ranges::count(Rule::kHypers, std::string_view(hyper.key),
                                          [](const auto& other) { return other.key; });
    row.hypers.push_back({hyper.name, hyper.key, hyper.index, static_cast<int>(count), hyper.label,
                          hyper.range, hyper.scheduled, hyper.optional, smallest, largest});
  }
  for_each_variant<Rule>([&row]<unsigned kPresent>(Present<kPresent>) {
    row.variants[kPresent] = variant_of<Rule, kPresent>();
  });
  return row;
}

template <int part>
std::vector<Algorithm> rows_of() {
  std::vector<Algorithm> rows;
  for_each_rule<part>([&rows]<class Rule>(RuleType<Rule>) { rows.push_back(row_of<Rule>()); });
  return rows;
}

}  // namespace onepass
