// Lion: Chen et al. 2023, algorithm 2.
#pragma once

#include "rule.h"

namespace onepass {

struct Lion : Rule {
  double lr, beta1, beta2, weight_decay, initial_lr, decouple_lr;

  static constexpr const char* kName = "lion";
  static constexpr const char* kNoSparse = "Lion does not support sparse gradients";
  static constexpr State kStates[] = {{"exp_avg"}};
  static constexpr Hyper<Lion> kHypers[] = {
      hyper::lr(&Lion::lr),
      hyper::beta1(&Lion::beta1),
      hyper::beta2(&Lion::beta2),
      hyper::weight_decay(&Lion::weight_decay),
      hyper::initial_lr(&Lion::initial_lr),
      hyper::flag("decouple_lr", &Lion::decouple_lr),
  };

  template <class Real, unsigned kPresent>
  struct Update {
    Real keep, one_minus_beta1, one_minus_beta2, lr;

    Update(const Lion& h, double)
        : keep(kept(h)), one_minus_beta1(1.0 - h.beta1), one_minus_beta2(1.0 - h.beta2), lr(h.lr) {}

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real& m = states[0];
      const Real direction = sign(lerp(m, g, one_minus_beta1));  // c_t
      m = lerp(m, g, one_minus_beta2);                           // m_t
      return p * keep - lr * direction;
    }
  };
};

}  // namespace onepass
