// The rules and their variants, for whoever makes loops or kernels of all of them.
#pragma once

#include <bit>
#include <cstddef>
#include <iterator>
#include <type_traits>
#include <utility>

#include "rules.h"

namespace onepass {

// A variant of a rule: a bit for each of its states that is present, and one for its option.
template <unsigned kPresent>
using Present = std::integral_constant<unsigned, kPresent>;

template <class Rule, unsigned kPresent>
constexpr int states_of() {
  return std::popcount(kPresent & ((1u << std::size(Rule::kStates)) - 1));
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

// Calls visit(Present<...>{}) for every set of states that holds the required ones, with the option
// off and on.
template <class Rule, unsigned kPresent = 0, class Visit>
void for_each_variant(const Visit& visit) {
  constexpr unsigned kBits = std::size(Rule::kStates) + (Rule::kOption.empty() ? 0 : 1);
  static_assert(kBits <= kMaxStates);
  if constexpr (kPresent < (1u << kBits)) {
    if constexpr ((kPresent & required_states<Rule>()) == required_states<Rule>())
      visit(Present<kPresent>{});
    for_each_variant<Rule, kPresent + 1>(visit);
  }
}

// The table of rules in parts of about the same length, each compiled on its own. With five of them
// Adam and AdamW, whose loops are the same, are in one.
inline constexpr int kParts = 5;

template <class Rule>
struct RuleType {
  using type = Rule;
};

template <int part, class Visit, class... Rule, std::size_t... index>
void for_each_rule(const Visit& visit, RuleList<Rule...> /*all*/,
                   std::index_sequence<index...> /*all*/) {
  const auto visit_if = [&]<bool wanted, class Type>(std::bool_constant<wanted>, Type type) {
    if constexpr (wanted) visit(type);
  };
  (visit_if(std::bool_constant<index * kParts / sizeof...(Rule) == part>{}, RuleType<Rule>{}), ...);
}

template <class... Rule>
constexpr auto indices(RuleList<Rule...> /*all*/) {
  return std::index_sequence_for<Rule...>{};
}

// Calls visit(RuleType<...>{}) for the rules of one part, in the table's order.
template <int part, class Visit>
void for_each_rule(const Visit& visit) {
  for_each_rule<part>(visit, Rules{}, indices(Rules{}));
}

}  // namespace onepass
