// What a rule is made of: the names of its states, the names and ranges of its hyper-parameters,
// and the few functions that rules share. Rules use + - * / sqrt and selection only, so that every
// instruction set and device computes the same bits.
#pragma once

#include <cmath>

#include "../portable.h"

namespace onepass {

// A state of a parameter under torch's name. `only_if` is the group option that turns it on.
struct State {
  const char* name;
  const char* only_if = nullptr;
};

enum class Range { kNonNegative, kBelowOne, kFlag };

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

// base^exponent for a whole exponent, by repeated squaring: one function for every device, because
// the pow of a device's mathematics library is not that of another.
ONEPASS_FN double power(double base, double exponent) {
  double result = 1.0;
  for (auto bits = static_cast<unsigned long long>(exponent); bits != 0; bits >>= 1) {
    if ((bits & 1) != 0) result *= base;
    base *= base;
  }
  return result;
}

// from + weight (to - from), in the form that is exact at both ends, as torch.lerp.
template <class Real>
ONEPASS_FN Real lerp(Real from, Real to, Real weight) {
  const Real difference = to - from;
  return weight < Real(0.5) ? from + weight * difference : to - difference * (Real(1) - weight);
}

// The larger value, or NaN where either is NaN, as torch.maximum.
template <class Real>
ONEPASS_FN Real maximum(Real a, Real b) {
  return (a > b || a != a) ? a : b;
}

// Decoupled weight decay: the factor that remains of a parameter after one step (Loshchilov and
// Hutter 2019, algorithm 2, line 12, with lr for their eta alpha). With `decouple_lr` the decay
// follows the schedule alone, lr / initial_lr, so that a step at lr = 0 changes nothing. An
// initial_lr of 0 says nothing about the schedule and counts as lr.
ONEPASS_FN double kept(double lr, double weight_decay, bool decouple_lr, double initial_lr) {
  if (!decouple_lr) return 1.0 - lr * weight_decay;
  if (lr == 0.0) return 1.0;
  return 1.0 - weight_decay * (initial_lr == 0.0 ? 1.0 : lr / initial_lr);
}

}  // namespace onepass
