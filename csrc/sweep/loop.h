// load -> rule -> store over consecutive elements: the only loop a rule runs in on the CPU.
#pragma once

#include <cstdint>

#include "../rules/rule.h"
#include "../storage/floats.h"

namespace onepass {

inline constexpr int kMaxStates = 4;
inline constexpr int kMaxOperands = kMaxStates + 2;  // parameter, gradient, states
inline constexpr int kMaxDims = 64;

// A rule's coefficients, the parameter, its gradient, its states, how many elements.
struct Stretch {
  const void* update;
  bool maximize;
  void* param;
  const void* grad;
  void* states[kMaxStates];
  std::int64_t size;
};
using Loop = void (*)(const Stretch&);

template <class Update, int kStates, class Param, class Grad, class StateFloat>
ONEPASS_FN void run_loop(const Stretch& stretch) {
  using Real = RealOf<Param>;
  const Update rule = *static_cast<const Update*>(stretch.update);
  const Real sign = stretch.maximize ? Real(-1) : Real(1);
  auto* const param = static_cast<Param*>(stretch.param);
  const auto* const grad = static_cast<const Grad*>(stretch.grad);
  StateFloat* states[kMaxStates];
  for (int k = 0; k < kStates; ++k) states[k] = static_cast<StateFloat*>(stretch.states[k]);

  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < stretch.size; ++i) {
    Real state[kMaxStates];
    for (int k = 0; k < kStates; ++k) state[k] = decode(states[k][i]);
    const Real updated = rule(Real(decode(param[i])), sign * Real(decode(grad[i])), state);
    encode(updated, param[i]);
    for (int k = 0; k < kStates; ++k) encode(state[k], states[k][i]);
  }
}

}  // namespace onepass
