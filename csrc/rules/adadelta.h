// AdaDelta: Zeiler 2012, algorithm 1. Deviation, as torch: a rate lr, 1 by default.
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct Adadelta : Rule {
  double lr, rho, eps, weight_decay;

  static constexpr const char* kName = "adadelta";
  static constexpr const char* kNoSparse = "Adadelta does not support sparse gradients";
  static constexpr State kStates[] = {non_negative({"square_avg"}), non_negative({"acc_delta"})};
  static constexpr Hyper<Adadelta> kHypers[] = {
      hyper::lr(&Adadelta::lr),
      {"rho", "rho", -1, "rho value", Range::kUpToOne, &Adadelta::rho},
      hyper::eps(&Adadelta::eps),
      hyper::weight_decay(&Adadelta::weight_decay),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real l2, rho, one_minus_rho, eps, lr;

    ONEPASS_FN Update(const Adadelta& h, double)
        : l2(h.weight_decay), rho(h.rho), one_minus_rho(1.0 - h.rho), eps(h.eps), lr(h.lr) {}

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &v = states[0], &u = states[1];
      g = with_l2(g, l2, p);
      v = rho * v + one_minus_rho * g * g;                             // E[g^2]_t
      const Real delta = std::sqrt(u + eps) / std::sqrt(v + eps) * g;  // -Delta x_t
      u = rho * u + one_minus_rho * delta * delta;                     // E[Delta x^2]_t
      return p - lr * delta;
    }
  };
};

}  // namespace onepass
