// From a rule to its entry in the registry: its loops for all stored types, the types erased.
#pragma once

#include <algorithm>
#include <new>
#include <string_view>

#include "../rules/variants.h"
#include "../sweep/instruction_sets.h"
#include "algorithm.h"

namespace onepass {

template <class Rule, unsigned kVariantBits>
Loop loop_for(int mix) {
  constexpr int kStates = states_of<Rule, kVariantBits>();
  using Update32 = typename Rule::template Update<float, kVariantBits>;
  using Update64 = typename Rule::template Update<double, kVariantBits>;
  static constexpr std::array<std::array<Loop, kInstructionSetCount>, kMixCount> table = {
      PerInstructionSet<&run_loop<Update32, kStates, float, float, float>>::table,
      PerInstructionSet<&run_loop<Update64, kStates, double, double, double>>::table,
      PerInstructionSet<&run_loop<Update32, kStates, BFloat16, BFloat16, BFloat16>>::table,
      PerInstructionSet<&run_loop<Update32, kStates, float, float, BFloat16>>::table,
      PerInstructionSet<&run_loop<Update32, kStates, BFloat16, BFloat16, float>>::table};
  return table[mix][instruction_set()];
}

template <class Rule>
Rule rule_with(const double* hypers) {
  Rule rule{};
  for (const auto& hyper : Rule::kHypers) rule.*(hyper.value) = *hypers++;
  return rule;
}

template <class Rule, unsigned kVariantBits>
void coefficients_of(const double* hypers, double step, StateNumber* numbers, Format arithmetic,
                     Coefficients& out) {
  const Rule rule = rule_with<Rule>(hypers);
  const auto construct = [&]<class Real>(Real) {
    using Update = typename Rule::template Update<Real, kVariantBits>;
    static_assert(sizeof(Update) <= sizeof(Coefficients));
    if constexpr (std::size(Rule::kNumbers) == 0) {
      new (out.bytes) Update(rule, step);
    } else {
      new (out.bytes) Update(rule, step, numbers);
    }
  };
  return arithmetic == Format::kFloat64 ? construct(double{}) : construct(float{});
}

template <class Rule, unsigned kVariantBits>
SumLoop sums_of(Format arithmetic) {
  constexpr int kStates = states_of<Rule, kVariantBits>();
  constexpr int kSquares = Rule::squares(kVariantBits);
  static_assert(kSquares <= kMaxSquares);
  using Update32 = typename Rule::template Update<float, kVariantBits>;
  using Update64 = typename Rule::template Update<double, kVariantBits>;
  static constexpr std::array<std::array<SumLoop, kInstructionSetCount>, 2> table = {
      PerInstructionSet<&run_sums<Update32, kStates, kSquares, float>>::table,
      PerInstructionSet<&run_sums<Update64, kStates, kSquares, double>>::table};
  return table[arithmetic == Format::kFloat64 ? 1 : 0][instruction_set()];
}

template <class Rule, unsigned kVariantBits>
void finish_coefficients(const double* squares, double size, StateNumber* numbers,
                         Format arithmetic, Coefficients& out) {
  const auto finish = [&]<class Real>(Real) {
    using Update = typename Rule::template Update<Real, kVariantBits>;
    std::launder(reinterpret_cast<Update*>(out.bytes))->finish(squares, size, numbers);
  };
  return arithmetic == Format::kFloat64 ? finish(double{}) : finish(float{});
}

template <class Rule, unsigned kVariantBits>
Variant variant_of() {
  Variant variant{&coefficients_of<Rule, kVariantBits>, &loop_for<Rule, kVariantBits>, nullptr,
                  nullptr};
  if constexpr (Rule::squares(kVariantBits) > 0) {
    variant.sums = &sums_of<Rule, kVariantBits>;
    variant.finish = &finish_coefficients<Rule, kVariantBits>;
  }
  return variant;
}

template <class Rule>
Algorithm algorithm_of() {
  static_assert(std::size(Rule::kHypers) <= kMaxHypers && std::size(Rule::kNumbers) <= kMaxNumbers);
  Algorithm algorithm{.name = Rule::kName,
                      .no_sparse = Rule::kNoSparse,
                      .no_sparse_decay = Rule::kNoSparseDecay,
                      .is_optimizer = Rule::kIsOptimizer,
                      .counts_steps = Rule::kCountsSteps,
                      .roles = Rule::kRoles,
                      .numbers = Rule::kNumbers,
                      .states = Rule::kStates};
  if constexpr (requires { &Rule::kept_without_gradient; })
    algorithm.kept_without_gradient = [](const double* hypers) {
      return rule_with<Rule>(hypers).kept_without_gradient();
    };
  for (const auto& hyper : Rule::kHypers) {
    if (Rule::kOption == hyper.name) algorithm.option = static_cast<int>(algorithm.hypers.size());
    const auto count = std::ranges::count(Rule::kHypers, std::string_view(hyper.key),
                                          [](const auto& other) { return other.key; });
    algorithm.hypers.push_back({hyper.name, hyper.key, hyper.index, static_cast<int>(count),
                                hyper.label, hyper.range, hyper.scheduled, hyper.optional,
                                interval_of(hyper.range)});
  }
  for_each_variant<Rule>([&algorithm]<unsigned kVariantBits>(VariantBits<kVariantBits>) {
    algorithm.variants[kVariantBits] = variant_of<Rule, kVariantBits>();
  });
  return algorithm;
}

template <class Family>
std::vector<Algorithm> algorithms_of() {
  std::vector<Algorithm> algorithms;
  for_each_rule([&]<class Rule>(RuleType<Rule>) { algorithms.push_back(algorithm_of<Rule>()); },
                Family{});
  return algorithms;
}

}  // namespace onepass
