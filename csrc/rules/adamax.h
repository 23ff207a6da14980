// AdaMax: Kingma and Ba 2015, algorithm 2. Deviation, as torch: eps is added to |g|, so that the
// norm of a parameter without gradients is not 0.
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct Adamax : Rule {
  double lr, beta1, beta2, eps, weight_decay;

  static constexpr const char* kName = "adamax";
  static constexpr const char* kNoSparse = "Adamax does not support sparse gradients";
  static constexpr State kStates[] = {{"exp_avg"}, non_negative({"exp_inf"})};
  static constexpr Hyper<Adamax> kHypers[] = {
      hyper::lr(&Adamax::lr),
      hyper::beta1(&Adamax::beta1),
      hyper::beta2(&Adamax::beta2),
      hyper::eps(&Adamax::eps),
      hyper::weight_decay(&Adamax::weight_decay),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real l2, one_minus_beta1, beta2, eps, step_size;

    ONEPASS_FN Update(const Adamax& h, double t)
        : l2(h.weight_decay),
          one_minus_beta1(1.0 - h.beta1),
          beta2(h.beta2),
          eps(h.eps),
          step_size(h.lr / (1.0 - power(h.beta1, t))) {}

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &m = states[0], &u = states[1];
      g = with_l2(g, l2, p);
      m = lerp(m, g, one_minus_beta1);            // m_t
      u = maximum(beta2 * u, std::abs(g) + eps);  // u_t
      return p - step_size * m / u;
    }
  };
};

}  // namespace onepass
