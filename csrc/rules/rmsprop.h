// RMSProp: Tieleman and Hinton 2012, lecture 6.5. Centered: Graves 2013, equations 38 to 41.
// Deviation, as torch: eps is added to the root (eps_root inside), and the momentum collects steps
// without their rate.
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct RMSprop : Rule {
  double lr, alpha, eps, weight_decay, momentum, eps_root;

  static constexpr const char* kName = "rmsprop";
  static constexpr State kStates[] = {
      non_negative({"square_avg"}),
      {"momentum_buffer", "momentum"},
      keeps_floats({"grad_avg", "centered"})};  // whose square is subtracted from square_avg
  static constexpr Hyper<RMSprop> kHypers[] = {
      hyper::lr(&RMSprop::lr),
      {"alpha", "alpha", -1, "alpha value", Range::kUpToOne, &RMSprop::alpha},
      hyper::eps(&RMSprop::eps),
      hyper::weight_decay(&RMSprop::weight_decay),
      {"momentum", "momentum", -1, "momentum value", Range::kNonNegative, &RMSprop::momentum, true},
      hyper::eps_root(&RMSprop::eps_root),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    static constexpr bool kMomentum = (kVariantBits & 0b010) != 0,
                          kCentered = (kVariantBits & 0b100) != 0;
    Real l2, alpha, one_minus_alpha, eps, eps_root, momentum, lr;

    ONEPASS_FN Update(const RMSprop& h, double)
        : l2(h.weight_decay),
          alpha(h.alpha),
          one_minus_alpha(1.0 - h.alpha),
          eps(h.eps),
          eps_root(h.eps_root),
          momentum(h.momentum),
          lr(h.lr) {}

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &v = states[0], &b = states[1], &a = states[kMomentum ? 2 : 1];
      g = with_l2(g, l2, p);
      v = alpha * v + one_minus_alpha * g * g;  // n_t of Graves
      Real variance = v;
      if constexpr (kCentered) {
        a = lerp(a, g, one_minus_alpha);  // g_t of Graves
        // Deviation: rounding may make n - g^2 negative, whose root torch makes NaN.
        variance = maximum(v - a * a, Real(0));
      }
      const Real step = g / (std::sqrt(variance + eps_root) + eps);
      return p - lr * (kMomentum ? b = momentum * b + step : step);
    }
  };
};

}  // namespace onepass
