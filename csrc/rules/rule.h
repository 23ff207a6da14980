// What a rule is made of: the names of its states, the names and ranges of its hyper-parameters,
// and the few functions that rules share. Rules use + - * / sqrt, fma and selection only, so that
// every instruction set and device computes the same bits.
#pragma once

#include <cmath>
#include <span>
#include <string_view>

#include "../portable.h"

namespace onepass {

// What a rule may have at most: states, numbers a parameter, hyper-parameters; and the room for the
// coefficients that its Update holds.
inline constexpr int kMaxStates = 4, kMaxNumbers = 2, kMaxHypers = 16;
inline constexpr int kCoefficientBytes = 128;

// A state of a parameter under torch's name.
struct State {
  const char* name;
  const char* only_if = nullptr;   // the group option that turns it on
  double start = 0.0;              // its value before the first step,
  const char* start_at = nullptr;  // or the option that holds it
};

// What the two tensors that every step sees are called, in the op and in messages.
struct Roles {
  const char* written;
  const char* read;
  const char* one_read;
};

// What most rules have in common.
struct Rule {
  static constexpr bool kIsOptimizer = true;  // a class of Python steps parameters by it
  static constexpr Roles kRoles{"params", "grads", "the gradient"};
  static constexpr std::span<const State> kNumbers{};  // states that are one number a parameter
  // A flag of the group that makes another loop of the rule; its bit comes after those of kStates.
  static constexpr std::string_view kOption = "";
  // How many sums of squares over a whole parameter the coefficients wait for: Update::measure says
  // of what, Update::finish gets them and the number of elements.
  static constexpr int squares(unsigned /*present*/) { return 0; }
  static constexpr bool kCountsSteps = true;  // else t is 1 where the states are new, 2 afterwards
  // Why sparse gradients are refused, always or with weight_decay, in torch's words; null: taken.
  static constexpr const char* kNoSparse = nullptr;
  static constexpr const char* kNoSparseDecay = nullptr;
};

// A number of a parameter's state, in a step that may change it. It is computed in the type it is
// stored in, as in torch.
struct Number {
  double value;
  bool is_float32;

  ONEPASS_FN double rounded(double x) const {
    return is_float32 ? static_cast<double>(float(x)) : x;
  }
  ONEPASS_FN void set(double x) { value = rounded(x); }
  bool operator==(const Number&) const = default;
};

enum class Range { kNonNegative, kBelowOne, kUpToOne, kInsideOne, kAboveOne, kFinite, kFlag };

// A hyper-parameter: where a parameter group keeps it, what it may be, where the rule keeps it.
template <class Rule>
struct Hyper {
  const char* name;   // the op's argument
  const char* key;    // the group's key
  int index;          // the position in the group's tuple, or -1
  const char* label;  // as in torch's message "Invalid {label}: {value}"
  Range range;
  double Rule::* value;    // flags are 0 or 1
  bool scheduled = false;  // changes between steps: the op takes a tensor, since a number would be
                           // a constant of a compiled step
  bool optional = false;   // 0 where the group lacks the key: an option of ours, unknown to torch
};

// The hyper-parameters that many rules have.
namespace hyper {

template <class Rule>
constexpr Hyper<Rule> lr(double Rule::* value) {
  return {"lr", "lr", -1, "learning rate", Range::kNonNegative, value, true};
}
template <class Rule>
constexpr Hyper<Rule> beta1(double Rule::* value) {
  return {"beta1", "betas", 0, "beta parameter at index 0", Range::kBelowOne, value, true};
}
template <class Rule>
constexpr Hyper<Rule> beta2(double Rule::* value) {
  return {"beta2", "betas", 1, "beta parameter at index 1", Range::kBelowOne, value, true};
}
template <class Rule>
constexpr Hyper<Rule> eps(double Rule::* value) {
  return {"eps", "eps", -1, "epsilon value", Range::kNonNegative, value};
}
template <class Rule>
constexpr Hyper<Rule> weight_decay(double Rule::* value) {
  return {"weight_decay",      "weight_decay", -1,  "weight_decay value",
          Range::kNonNegative, value,          true};
}
template <class Rule>
constexpr Hyper<Rule> eps_root(double Rule::* value) {
  return {"eps_root", "eps_root", -1, "eps_root value", Range::kNonNegative, value, false, true};
}
template <class Rule>
constexpr Hyper<Rule> reference_lr(double Rule::* value) {
  return {"reference_lr",      "reference_lr", -1,   "reference_lr value",
          Range::kNonNegative, value,          true, true};
}
template <class Rule>
constexpr Hyper<Rule> flag(const char* name, double Rule::* value) {
  return {name, name, -1, name, Range::kFlag, value, false, true};
}

}  // namespace hyper

// A rule over two means with decoupled decay.
struct DecayedMeans : Rule {
  double lr, beta1, beta2, eps, weight_decay, reference_lr, decouple_lr;

  static constexpr Hyper<DecayedMeans> kHypers[] = {
      hyper::lr(&DecayedMeans::lr),
      hyper::beta1(&DecayedMeans::beta1),
      hyper::beta2(&DecayedMeans::beta2),
      hyper::eps(&DecayedMeans::eps),
      hyper::weight_decay(&DecayedMeans::weight_decay),
      hyper::reference_lr(&DecayedMeans::reference_lr),
      hyper::flag("decouple_lr", &DecayedMeans::decouple_lr),
  };
};

// base^exponent for base and exponent >= 0: the whole part by repeated squaring, the rest by
// repeated roots. One function for every device, because the pow of a device's mathematics library
// is not that of another.
ONEPASS_FN double power(double base, double exponent) {
  double result = 1.0, square = base;
  // Beyond 2^63 a power is what it is at 2^63: 0, 1 or infinite. No integer holds such an exponent,
  // and what a conversion makes of it is another number on every architecture.
  const auto whole = exponent < 0x1p63 ? static_cast<unsigned long long>(exponent) : 1ull << 63;
  for (auto bits = whole; bits != 0; bits >>= 1) {
    if ((bits & 1) != 0) result *= square;
    square *= square;
  }
  double root = base, rest = exponent - static_cast<double>(whole);
  // After 64 roots nothing is left of a base but 1. What a device was given may be no exponent at
  // all, and must end too.
  for (int roots = 0; roots < 64 && rest > 0.0; ++roots) {
    root = std::sqrt(root);
    rest *= 2.0;
    if (rest < 1.0) continue;
    result *= root;
    rest -= 1.0;
  }
  return result;
}

// from + weight (to - from), in the form that is exact at both ends, as torch.lerp.
template <class Real>
ONEPASS_FN Real lerp(Real from, Real to, Real weight) {
  const Real difference = to - from;
  return weight < Real(0.5) ? from + weight * difference : to - difference * (Real(1) - weight);
}

// The same, rounded once fewer: bit for bit torch.lerp where torch has vector kernels, whose
// multiplication and addition are one. Every fma is correctly rounded, one in software too.
template <class Real>
ONEPASS_FN Real fused_lerp(Real from, Real to, Real weight) {
  const bool small = weight < Real(0.5);
  return std::fma(small ? weight : weight - Real(1), to - from, small ? from : to);
}

// The larger value, or NaN where either is NaN, as torch.maximum.
template <class Real>
ONEPASS_FN Real maximum(Real a, Real b) {
  return (a > b || a != a) ? a : b;
}

// x brought between the bounds, or NaN, as torch.clamp.
template <class Real>
ONEPASS_FN Real clamp(Real x, Real smallest, Real largest) {
  const Real raised = x < smallest ? smallest : x;
  return raised > largest ? largest : raised;
}

// -1, 0 or 1; 0 for NaN, as torch.sign.
template <class Real>
ONEPASS_FN Real sign(Real x) {
  return Real(x > Real(0)) - Real(x < Real(0));
}

// The gradient with the coupled decay of L2 regularization.
template <class Real>
ONEPASS_FN Real with_l2(Real g, Real l2, Real p) {
  return l2 != Real(0) ? g + l2 * p : g;
}

// Decoupled weight decay: the factor that remains of a parameter after one step (Loshchilov and
// Hutter 2019, algorithm 2, line 12, with lr for their eta alpha). With `decouple_lr` the decay
// follows the schedule alone, lr over the largest rate so far, so that a step at lr = 0 changes
// nothing and no step takes more than weight_decay. reference_lr is that rate before this step.
template <class Rule>
ONEPASS_FN double kept(const Rule& h) {
  if (h.decouple_lr == 0.0) return 1.0 - h.lr * h.weight_decay;
  if (h.lr == 0.0) return 1.0;
  const double largest = h.lr > h.reference_lr ? h.lr : h.reference_lr;
  return 1.0 - h.weight_decay * (h.lr / largest);
}

// Of a rule whose decay may be either: the weight of L2 if it is coupled, and the factor that
// remains of the parameter if it is decoupled. Each is neutral where the other is used.
template <class Rule>
ONEPASS_FN bool is_decoupled(const Rule& h) {
  return h.decoupled_weight_decay != 0.0;
}
template <class Rule>
ONEPASS_FN double l2_if_coupled(const Rule& h) {
  return is_decoupled(h) ? 0.0 : h.weight_decay;
}
template <class Rule>
ONEPASS_FN double kept_if_decoupled(const Rule& h) {
  return is_decoupled(h) ? kept(h) : 1.0;
}

// Cautious steps (Liang et al. 2024, algorithm 1): an element whose step would go against its
// gradient rests, and the others go further, so that the mean step stays. The least share is that
// of the authors' code.
template <class Real>
ONEPASS_FN bool agree(Real direction, Real g) {
  return sign(direction) * sign(g) > Real(0);
}
// As a number: a conversion of the truth value would not be vectorised.
template <class Real>
ONEPASS_FN Real agreement(Real direction, Real g) {
  return agree(direction, g) ? Real(1) : Real(0);
}
ONEPASS_FN double cautious_scale(double agreeing, double size) {
  const double share = agreeing / size;
  return 1.0 / (share < 1e-3 ? 1e-3 : share);
}

// |x| / |y| of two sums of squares, and 1 where one of them is 0, as in the code of LAMB's authors.
ONEPASS_FN double trust_ratio(double x_square, double y_square) {
  return x_square == 0.0 || y_square == 0.0 ? 1.0 : std::sqrt(x_square) / std::sqrt(y_square);
}

}  // namespace onepass
