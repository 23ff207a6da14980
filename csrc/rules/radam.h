// RAdam: Liu et al. 2020, algorithm 2. Deviation, as torch and the authors' code: the variance is
// rectified where rho_t > 5 (the paper prints 4), and eps is added to the root of v before its bias
// is corrected.
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct RAdam : Rule {
  double lr, beta1, beta2, eps, weight_decay, eps_root, reference_lr;
  double decouple_lr, decoupled_weight_decay;

  static constexpr const char* kName = "radam";
  static constexpr const char* kNoSparse = "RAdam does not support sparse gradients";
  static constexpr State kStates[] = {{"exp_avg"}, non_negative({"exp_avg_sq"})};
  static constexpr Hyper<RAdam> kHypers[] = {
      hyper::lr(&RAdam::lr),
      hyper::beta1(&RAdam::beta1),
      hyper::beta2(&RAdam::beta2),
      hyper::eps(&RAdam::eps),
      hyper::weight_decay(&RAdam::weight_decay),
      hyper::eps_root(&RAdam::eps_root),
      hyper::reference_lr(&RAdam::reference_lr),
      hyper::flag("decouple_lr", &RAdam::decouple_lr),
      hyper::flag("decoupled_weight_decay", &RAdam::decoupled_weight_decay),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real l2, keep, one_minus_beta1, beta2, one_minus_beta2, step_size, rectified, eps, eps_root;

    ONEPASS_FN Update(const RAdam& h, double t) {
      const double bias_correction1 = 1.0 - power(h.beta1, t);
      const double bias_correction2 = 1.0 - power(h.beta2, t);
      const double rho_inf = 2.0 / (1.0 - h.beta2) - 1.0;
      const double rho = rho_inf - 2.0 * t * power(h.beta2, t) / bias_correction2;  // rho_t
      const bool is_tractable = rho > 5.0 && t > 5.0;  // rho_t < t, whatever rounding makes of it
      const double r = std::sqrt((rho - 4.0) * (rho - 2.0) * rho_inf /
                                 ((rho_inf - 4.0) * (rho_inf - 2.0) * rho));  // r_t
      l2 = Real(l2_if_coupled(h));
      keep = Real(kept_if_decoupled(h));
      one_minus_beta1 = Real(1.0 - h.beta1);
      beta2 = Real(h.beta2);
      one_minus_beta2 = Real(1.0 - h.beta2);
      step_size =
          Real(h.lr / bias_correction1 * (is_tractable ? r * std::sqrt(bias_correction2) : 1.0));
      rectified = Real(is_tractable);
      eps = Real(h.eps);
      eps_root = Real(h.eps_root * bias_correction2);
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &m = states[0], &v = states[1];
      g = with_l2(g, l2, p);
      m = lerp(m, g, one_minus_beta1);          // m_t
      v = beta2 * v + one_minus_beta2 * g * g;  // v_t
      const Real root = std::sqrt(v + eps_root) + eps;
      const Real update =
          rectified != Real(0) ? m / root : m;  // mhat_t r_t / sqrt(vhat_t) or mhat_t
      return p * keep - step_size * update;
    }
  };
};

}  // namespace onepass
