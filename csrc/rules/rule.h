// The schema of a rule: the names of its states, the names and ranges of its hyper-parameters.
// Rules use + - * / sqrt, fma and selection only, so that every instruction set and device computes
// the same bits; the functions that they share are in math.h and decay.h.
#pragma once

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
  bool is_non_negative = false;    // stored in unsigned codes; in 16 bits rounded as asked
  bool keeps_floats = false;       // does not survive in 8 bits
};

constexpr State non_negative(State state) {
  state.is_non_negative = true;
  return state;
}

constexpr State keeps_floats(State state) {
  state.keeps_floats = true;
  return state;
}

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
struct StateNumber {
  double value;
  bool is_float32;

  ONEPASS_FN double rounded(double x) const {
    return is_float32 ? static_cast<double>(float(x)) : x;
  }
  ONEPASS_FN void set(double x) { value = rounded(x); }
  bool operator==(const StateNumber&) const = default;
};

enum class Range {
  kNonNegative,
  kPositive,
  kBelowOne,
  kUpToOne,
  kInsideOne,
  kAboveOne,
  kFinite,
  kFlag
};

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

}  // namespace onepass
