// ADOPT: Taniguchi et al. 2024, algorithm 2, clipped at t^(1/4) as in the authors' code.
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct ADOPT : DecayedMeans {
  static constexpr const char* kName = "adopt";
  static constexpr const char* kNoSparse = "ADOPT does not support sparse gradients";
  static constexpr State kStates[] = {{"exp_avg"}, non_negative({"exp_avg_sq"})};

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real keep, one_minus_beta1, beta2, one_minus_beta2, lr, eps, clip;

    ONEPASS_FN Update(const ADOPT& h, double t) {
      const bool is_first = t == 1.0;  // v_0 = g_0^2, and nothing else
      keep = Real(is_first ? 1.0 : kept(h));
      one_minus_beta1 = Real(is_first ? 0.0 : 1.0 - h.beta1);
      beta2 = Real(is_first ? 0.0 : h.beta2);
      one_minus_beta2 = Real(is_first ? 1.0 : 1.0 - h.beta2);
      lr = Real(is_first ? 0.0 : h.lr);
      eps = Real(h.eps);
      clip = Real(power(t - 1.0, 0.25));  // c_t
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &m = states[0], &v = states[1];
      const Real scaled = g / maximum(std::sqrt(v), eps);        // by v_(t-1)
      m = lerp(m, clamp(scaled, -clip, clip), one_minus_beta1);  // m_t
      v = beta2 * v + one_minus_beta2 * g * g;                   // v_t
      return p * keep - lr * m;                                  // theta_t
    }
  };
};

}  // namespace onepass
