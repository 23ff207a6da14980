// load -> rule -> store over consecutive elements: the only loop on the CPU that applies a formula.
#pragma once

#include <cstdint>

#include "../rules/rule.h"
#include "../storage/floats.h"
#include "sums.h"

namespace onepass {

inline constexpr int kMaxOperands = kMaxStates + 2;  // parameter, gradient, states
inline constexpr int kMaxDims = 64;

// A rule's coefficients, what the gradient is multiplied by, the parameter, its gradient, its
// states, how many elements.
struct LoopArgs {
  const void* update;
  double grad_factor;
  void* param;
  const void* grad;
  void* states[kMaxStates];
  std::int64_t size;
};
using Loop = void (*)(const LoopArgs&);

using SumLoop = void (*)(const LoopArgs&, double* sums);

// The sum of a gradient's squares, in the order of run_sums.
template <class Real>
ONEPASS_FN void run_gradient_sum(const LoopArgs& args, double* sum) {
  const Real factor = static_cast<Real>(args.grad_factor);
  const auto* const grad = static_cast<const Real*>(args.grad);
  double lanes[kLanes] = {};
  const auto add = [&](std::int64_t i, std::int64_t lane) {
    const double term = factor * grad[i];
    lanes[lane] += term * term;
  };
  std::int64_t i = 0;
  for (; i + kLanes <= args.size; i += kLanes)
    for (std::int64_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
  for (std::int64_t lane = 0; i + lane < args.size; ++lane) add(i + lane, lane);
  *sum = 0.0;
  for (const double lane : lanes) *sum += lane;
}

template <class Update, int kStates, class Param, class Grad, class StateFloat>
ONEPASS_FN void run_loop(const LoopArgs& args) {
  using Real = RealOf<Param>;
  const Update rule = *static_cast<const Update*>(args.update);
  const Real factor = static_cast<Real>(args.grad_factor);
  auto* const param = static_cast<Param*>(args.param);
  const auto* const grad = static_cast<const Grad*>(args.grad);
  StateFloat* states[kMaxStates];
  for (int k = 0; k < kStates; ++k) states[k] = static_cast<StateFloat*>(args.states[k]);

  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < args.size; ++i) {
    Real state[kMaxStates];
    for (int k = 0; k < kStates; ++k) state[k] = decode(states[k][i]);
    const Real updated = rule(Real(decode(param[i])), factor * Real(decode(grad[i])), state);
    encode(updated, param[i]);
    for (int k = 0; k < kStates; ++k) encode(state[k], states[k][i]);
  }
}

// The sums of the squares that a rule asks for, over elements of the arithmetic type; nothing is
// written.
template <class Update, int kStates, int kSquares, class Real>
ONEPASS_FN void run_sums(const LoopArgs& args, double* sums) {
  const Update rule = *static_cast<const Update*>(args.update);
  const Real factor = static_cast<Real>(args.grad_factor);
  const auto* const param = static_cast<const Real*>(args.param);
  const auto* const grad = static_cast<const Real*>(args.grad);
  const Real* states[kMaxStates];
  for (int k = 0; k < kStates; ++k) states[k] = static_cast<const Real*>(args.states[k]);

  Real terms[kSquares][kSumBlock<Real>];
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < args.size; ++i) {
    Real state[kMaxStates], term[kSquares];
    for (int k = 0; k < kStates; ++k) state[k] = states[k][i];
    rule.measure(param[i], factor * grad[i], state, term);
    for (int k = 0; k < kSquares; ++k) terms[k][i] = term[k];
  }
  const std::int64_t padded = (args.size + kLanes - 1) / kLanes * kLanes;
  for (int k = 0; k < kSquares; ++k) {
    for (std::int64_t i = args.size; i < padded; ++i) terms[k][i] = Real(0);
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
