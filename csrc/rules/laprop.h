// LaProp: Ziyin et al. 2020, algorithm 1: Adam whose gradients are scaled before they are averaged.
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct LaProp : Rule {
  double lr, beta1, beta2, eps, weight_decay, eps_root, reference_lr, decouple_lr;

  static constexpr const char* kName = "laprop";
  static constexpr const char* kNoSparse = "LaProp does not support sparse gradients";
  static constexpr State kStates[] = {{"exp_avg"}, non_negative({"exp_avg_sq"})};
  static constexpr Hyper<LaProp> kHypers[] = {
      hyper::lr(&LaProp::lr),
      hyper::beta1(&LaProp::beta1),
      hyper::beta2(&LaProp::beta2),
      hyper::eps(&LaProp::eps),
      hyper::weight_decay(&LaProp::weight_decay),
      hyper::eps_root(&LaProp::eps_root),
      hyper::reference_lr(&LaProp::reference_lr),
      hyper::flag("decouple_lr", &LaProp::decouple_lr),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real keep, one_minus_beta1, beta2, one_minus_beta2, step_size, n_scale, eps, eps_root;

    ONEPASS_FN Update(const LaProp& h, double t) {
      const double bias_correction2 = 1.0 - power(h.beta2, t);
      keep = Real(kept(h));
      one_minus_beta1 = Real(1.0 - h.beta1);
      beta2 = Real(h.beta2);
      one_minus_beta2 = Real(1.0 - h.beta2);
      step_size = Real(h.lr / (1.0 - power(h.beta1, t)));
      n_scale = Real(1.0 / std::sqrt(bias_correction2));
      eps = Real(h.eps);
      eps_root = Real(h.eps_root * bias_correction2);
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &m = states[0], &n = states[1];
      n = beta2 * n + one_minus_beta2 * g * g;  // n_t
      const Real scaled = g / (std::sqrt(n + eps_root) * n_scale + eps);
      m = lerp(m, scaled, one_minus_beta1);  // m_t
      return p * keep - step_size * m;
    }
  };
};

}  // namespace onepass
