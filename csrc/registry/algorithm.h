// The registry of algorithms: rules.h with the types erased.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "../portable.h"
#include "../rules/rule.h"
#include "../sweep/loop.h"

namespace onepass {

// A rule's coefficients for one step count, whatever the rule and the arithmetic type.
struct alignas(16) Coefficients {
  std::byte bytes[kCoefficientBytes];
};

// The mixes of stored types (parameter, gradient, all states) that are swept in place. All others
// go through tiles, so that the size of the code is a sum over types and not a product.
inline constexpr struct {
  Format param, grad, states;
} kMixes[] = {{Format::kFloat32, Format::kFloat32, Format::kFloat32},
              {Format::kFloat64, Format::kFloat64, Format::kFloat64},
              {Format::kBFloat16, Format::kBFloat16, Format::kBFloat16},
              {Format::kFloat32, Format::kFloat32, Format::kBFloat16},
              {Format::kBFloat16, Format::kBFloat16, Format::kFloat32}};
inline constexpr int kMixCount = std::size(kMixes);
inline constexpr int kMixFloat32 = 0;
inline constexpr int kMixFloat64 = 1;

// An algorithm with a given set of its states present (AMSGrad's maximum or not, and so on), and
// its option on or off.
struct Variant {
  // `numbers` are the state's, and change to those after the step.
  void (*coefficients)(const double* hypers, double step, StateNumber* numbers, Format arithmetic,
                       Coefficients& out);
  Loop (*loop)(int mix);  // for the instruction set in use
  // Of a rule that waits for sums over the parameter; else null.
  SumLoop (*sums)(Format arithmetic);
  void (*finish)(const double* squares, double size, StateNumber* numbers, Format arithmetic,
                 Coefficients& out);
};

// What a number was computed in, as far as its type tells.
enum class Precision { kSingle, kDouble };

// How far below 0 rounding brings a number that should have ended at 0. n subtractions from r, such
// as lr -= lr0 / n, err by at most n r u, with the unit roundoff u = 2^-53 or 2^-24: a million from
// 1, and sixteen thousand from 1e-3. Such a rate, taken as 0, moves no parameter measurably. A rate
// that a typing error has made negative is larger: it is refused.
constexpr double rounding_below_zero(Precision precision) {
  return precision == Precision::kDouble ? 0x1p-33 : 0x1p-20;
}

// The numbers that a range holds, in C++ and in words.
struct Interval {
  double smallest, largest;
  const char* words;
};

constexpr Interval interval_of(Range range) {
  using Limits = std::numeric_limits<double>;
  constexpr double kSmallest = Limits::denorm_min(), kBelowOne = 1.0 - Limits::epsilon() / 2.0;
  switch (range) {
    case Range::kNonNegative:
      return {0.0, Limits::max(), "finite and not negative"};
    case Range::kPositive:
      return {kSmallest, Limits::max(), "finite and over 0"};
    case Range::kBelowOne:
      return {0.0, kBelowOne, "in [0, 1)"};
    case Range::kUpToOne:
      return {0.0, 1.0, "in [0, 1]"};
    case Range::kInsideOne:
      return {kSmallest, kBelowOne, "in (0, 1)"};
    case Range::kAboveOne:
      return {1.0 + Limits::epsilon(), Limits::max(), "finite and over 1"};
    case Range::kFlag:
      return {0.0, 1.0, "true or false"};
    case Range::kFinite:
      break;
  }
  return {-Limits::max(), Limits::max(), "finite"};
}

struct HyperInfo {
  const char* name;
  const char* key;
  int index;
  int count;  // of the numbers under the key
  const char* label;
  Range range;
  bool scheduled;
  bool optional;
  Interval interval;  // what it may be; NaN is in none

  bool allows(double value) const {
    return interval.smallest <= value && value <= interval.largest;
  }

  // What a value counts as that a schedule may have computed: 0 where rounding alone has brought it
  // below 0, else itself.
  double counted(double value, Precision precision) const {
    const bool may_end_at_zero = scheduled && interval.smallest == 0.0;
    return may_end_at_zero && value < 0.0 && value >= -rounding_below_zero(precision) ? 0.0 : value;
  }
};

struct Algorithm {
  const char* name;
  const char* no_sparse;        // why sparse gradients are refused, or null
  const char* no_sparse_decay;  // or only with weight_decay
  bool is_optimizer;
  bool counts_steps;
  Roles roles;
  std::span<const State> numbers;  // the states that are one number a parameter
  std::span<const State> states;   // and those that are one for each of its elements
  std::vector<HyperInfo> hypers;
  int option = -1;  // which of them is a flag with loops of its own
  double (*kept_without_gradient)(const double* hypers);  // null where there is no decoupled decay
  // By the set of present states, a bit each, and the option after them.
  Variant variants[1 << kMaxStates];

  // Whether an element's step depends on its whole parameter, whatever the options.
  bool always_sums() const {
    return std::ranges::all_of(variants, [](const Variant& variant) {
      return variant.loop == nullptr || variant.sums != nullptr;
    });
  }
};

// The algorithms of a family of rules.h; instantiated in a file of its own for each.
template <class Family>
std::vector<Algorithm> algorithms_of();

ONEPASS_API std::span<const Algorithm> algorithms();

// The version of onepass that this library was built as.
ONEPASS_API std::string_view library_version();

// The algorithm of that name, or null.
ONEPASS_API const Algorithm* find_algorithm(std::string_view name);

}  // namespace onepass
