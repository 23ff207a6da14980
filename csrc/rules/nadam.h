// NAdam: Dozat 2016, algorithm 2 with the schedule of mu of its section 3 (0.96^(t psi), psi being
// momentum_decay).
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct NAdam : Rule {
  double lr, beta1, beta2, eps, weight_decay, momentum_decay, eps_root, reference_lr;
  double decouple_lr, decoupled_weight_decay;

  static constexpr const char* kName = "nadam";
  static constexpr const char* kNoSparse = "NAdam does not support sparse gradients";
  static constexpr State kNumbers[] = {{"mu_product", nullptr, 1.0}};
  static constexpr State kStates[] = {{"exp_avg"}, non_negative({"exp_avg_sq"})};
  static constexpr Hyper<NAdam> kHypers[] = {
      hyper::lr(&NAdam::lr),
      hyper::beta1(&NAdam::beta1),
      hyper::beta2(&NAdam::beta2),
      hyper::eps(&NAdam::eps),
      hyper::weight_decay(&NAdam::weight_decay),
      {"momentum_decay", "momentum_decay", -1, "momentum_decay value", Range::kNonNegative,
       &NAdam::momentum_decay},
      hyper::eps_root(&NAdam::eps_root),
      hyper::reference_lr(&NAdam::reference_lr),
      hyper::flag("decouple_lr", &NAdam::decouple_lr),
      hyper::flag("decoupled_weight_decay", &NAdam::decoupled_weight_decay),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real l2, keep, one_minus_beta1, beta2, one_minus_beta2, g_scale, m_scale, v_scale, eps;
    Real eps_root;

    ONEPASS_FN Update(const NAdam& h, double t, StateNumber* numbers) {
      const auto momentum = [&h](double at) {
        return h.beta1 * (1.0 - 0.5 * power(0.96, at * h.momentum_decay));
      };
      const double mu = momentum(t), next_mu = momentum(t + 1.0);
      StateNumber& product = numbers[0];  // of mu_1 to mu_t
      product.set(product.value * product.rounded(mu));
      const double bias_correction2 = 1.0 - power(h.beta2, t);
      l2 = Real(l2_if_coupled(h));
      keep = Real(kept_if_decoupled(h));
      one_minus_beta1 = Real(1.0 - h.beta1);
      beta2 = Real(h.beta2);
      one_minus_beta2 = Real(1.0 - h.beta2);
      g_scale = Real(h.lr * (1.0 - mu) / (1.0 - product.value));
      m_scale = Real(h.lr * next_mu / (1.0 - product.value * next_mu));
      v_scale = Real(1.0 / std::sqrt(bias_correction2));
      eps = Real(h.eps);
      eps_root = Real(h.eps_root * bias_correction2);
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &m = states[0], &v = states[1];
      g = with_l2(g, l2, p);
      m = lerp(m, g, one_minus_beta1);          // m_t
      v = beta2 * v + one_minus_beta2 * g * g;  // n_t
      const Real denominator = std::sqrt(v + eps_root) * v_scale + eps;
      return p * keep - (g_scale * g + m_scale * m) / denominator;
    }
  };
};

}  // namespace onepass
