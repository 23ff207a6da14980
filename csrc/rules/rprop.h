// Rprop: Riedmiller and Braun 1993. As torch the variant without backtracking of weights, Rprop- in
// Igel and Huesken 2000: where the gradient's sign has changed the parameter rests for a step.
#pragma once

#include "math.h"
#include "rule.h"

namespace onepass {

struct Rprop : Rule {
  double lr, eta_minus, eta_plus, smallest, largest;

  static constexpr const char* kName = "rprop";
  static constexpr const char* kNoSparse = "Rprop does not support sparse gradients";
  // Products of powers of the etas, and a gradient of which the sign counts.
  static constexpr State kStates[] = {
      keeps_floats({"prev"}), keeps_floats(non_negative({.name = "step_size", .start_at = "lr"}))};
  static constexpr Hyper<Rprop> kHypers[] = {
      hyper::lr(&Rprop::lr),
      {"eta_minus", "etas", 0, "eta value", Range::kInsideOne, &Rprop::eta_minus},
      {"eta_plus", "etas", 1, "eta value", Range::kAboveOne, &Rprop::eta_plus},
      {"step_size_min", "step_sizes", 0, "step size", Range::kNonNegative, &Rprop::smallest},
      {"step_size_max", "step_sizes", 1, "step size", Range::kNonNegative, &Rprop::largest},
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real eta_minus, eta_plus, smallest, largest;

    ONEPASS_FN Update(const Rprop& h, double)
        : eta_minus(h.eta_minus), eta_plus(h.eta_plus), smallest(h.smallest), largest(h.largest) {}

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &prev = states[0], &step_size = states[1];
      const Real agreement = sign(g) * sign(prev);
      const Real factor = agreement > 0 ? eta_plus : agreement < 0 ? eta_minus : Real(1);
      step_size = clamp(step_size * factor, smallest, largest);  // Delta_t
      prev = agreement < Real(0) ? Real(0) : g;
      return p - sign(prev) * step_size;
    }
  };
};

}  // namespace onepass
