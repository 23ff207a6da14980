// Adan: Xie et al. 2022, algorithm 1. Deviation, as the authors' code: the biases of the means are
// corrected, and the betas are what is kept of a mean, 1 - beta of the paper.
#pragma once

#include "math.h"
#include "rule.h"

namespace onepass {

struct Adan : Rule {
  double lr, beta1, beta2, beta3, eps, weight_decay, eps_root;

  static constexpr const char* kName = "adan";
  static constexpr const char* kNoSparse = "Adan does not support sparse gradients";
  static constexpr State kStates[] = {
      {"exp_avg"}, {"exp_avg_diff"}, non_negative({"exp_avg_sq"}), {"prev"}};
  static constexpr Hyper<Adan> kHypers[] = {
      hyper::lr(&Adan::lr),
      hyper::beta1(&Adan::beta1),
      hyper::beta2(&Adan::beta2),
      {"beta3", "betas", 2, "beta parameter at index 2", Range::kBelowOne, &Adan::beta3, true},
      hyper::eps(&Adan::eps),
      hyper::weight_decay(&Adan::weight_decay),
      hyper::eps_root(&Adan::eps_root),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real one_minus_beta1, beta2, one_minus_beta2, beta3, one_minus_beta3, step_size, diff_step_size;
    Real n_scale, eps, eps_root, keep, first;

    ONEPASS_FN Update(const Adan& h, double t) {
      const double bias_correction3 = 1.0 - power(h.beta3, t);
      one_minus_beta1 = Real(1.0 - h.beta1);
      beta2 = Real(h.beta2);
      one_minus_beta2 = Real(1.0 - h.beta2);
      beta3 = Real(h.beta3);
      one_minus_beta3 = Real(1.0 - h.beta3);
      step_size = Real(h.lr / (1.0 - power(h.beta1, t)));
      diff_step_size = Real(h.lr * h.beta2 / (1.0 - power(h.beta2, t)));
      n_scale = Real(1.0 / std::sqrt(bias_correction3));
      eps = Real(h.eps);
      eps_root = Real(h.eps_root * bias_correction3);
      keep = Real(1.0 / (1.0 + h.lr * h.weight_decay));
      first = Real(t == 1.0);
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &m = states[0], &v = states[1], &n = states[2], &prev = states[3];
      const Real change = first != Real(0) ? Real(0) : g - prev;  // g_k - g_(k-1), 0 at first
      const Real ahead = g + beta2 * change;
      m = lerp(m, g, one_minus_beta1);                  // m_k
      v = lerp(v, change, one_minus_beta2);             // v_k
      n = beta3 * n + one_minus_beta3 * ahead * ahead;  // n_k
      prev = g;
      const Real root = std::sqrt(n + eps_root) * n_scale + eps;
      return (p - (step_size * m + diff_step_size * v) / root) * keep;  // theta_(k+1)
    }
  };
};

}  // namespace onepass
