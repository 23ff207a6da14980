// load -> rule -> store over consecutive elements: the only loop a rule runs in on the CPU.
#pragma once

#include <cstdint>

#include "../rules/rule.h"
#include "../storage/floats.h"
#include "sums.h"

namespace onepass {

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

using SumLoop = void (*)(const Stretch&, double* sums);

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

// The sums of the squares that a rule asks for, over elements of the arithmetic type; nothing is
// written.
template <class Update, int kStates, int kSquares, class Real>
ONEPASS_FN void run_sums(const Stretch& stretch, double* sums) {
  const Update rule = *static_cast<const Update*>(stretch.update);
  const Real sign = stretch.maximize ? Real(-1) : Real(1);
  const auto* const param = static_cast<const Real*>(stretch.param);
  const auto* const grad = static_cast<const Real*>(stretch.grad);
  const Real* states[kMaxStates];
  for (int k = 0; k < kStates; ++k) states[k] = static_cast<const Real*>(stretch.states[k]);

  Real terms[kSquares][kSumBlock<Real>];
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < stretch.size; ++i) {
    Real state[kMaxStates], term[kSquares];
    for (int k = 0; k < kStates; ++k) state[k] = states[k][i];
    rule.measure(param[i], sign * grad[i], state, term);
    for (int k = 0; k < kSquares; ++k) terms[k][i] = term[k];
  }
  const std::int64_t padded = (stretch.size + kLanes - 1) / kLanes * kLanes;
  for (int k = 0; k < kSquares; ++k) {
    for (std::int64_t i = stretch.size; i < padded; ++i) terms[k][i] = Real(0);
    double lanes[kLanes] = {};
    for (std::int64_t i = 0; i < padded; i += kLanes)
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        const double term = terms[k][i + lane];
        lanes[lane] += term * term;
      }
    sums[k] = 0.0;
    for (const double lane : lanes) sums[k] += lane;
  }
}

}  // namespace onepass
