// The rules and their variants, from which loops and kernels are made.
#pragma once

#include <bit>
#include <cstddef>
#include <iterator>
#include <type_traits>

#include "rules.h"

namespace onepass {

// A variant of a rule: a bit for each of its states that is present, and one for its option.
template <unsigned kVariantBits>
using VariantBits = std::integral_constant<unsigned, kVariantBits>;

template <class Rule, unsigned kVariantBits>
constexpr int states_of() {
  return std::popcount(kVariantBits & ((1u << std::size(Rule::kStates)) - 1));
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

// Calls visit(VariantBits<...>{}) for every set of states that holds the required ones, with the
// option off and on.
template <class Rule, unsigned kVariantBits = 0, class Visit>
void for_each_variant(const Visit& visit) {
  constexpr unsigned kBits = std::size(Rule::kStates) + (Rule::kOption.empty() ? 0 : 1);
  static_assert(kBits <= kMaxStates);
  if constexpr (kVariantBits < (1u << kBits)) {
    if constexpr ((kVariantBits & required_states<Rule>()) == required_states<Rule>())
      visit(VariantBits<kVariantBits>{});
    for_each_variant<Rule, kVariantBits + 1>(visit);
  }
}

template <class Rule>
struct RuleType {
  using type = Rule;
};

// Calls visit(RuleType<...>{}) for the rules of a family, in the table's order.
template <class Visit, class... Rule>
void for_each_rule(const Visit& visit, Family<Rule...> /*all*/) {
  (visit(RuleType<Rule>{}), ...);
}

}  // namespace onepass
