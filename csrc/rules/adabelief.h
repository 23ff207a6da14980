// AdaBelief: Zhuang et al. 2020, algorithm 2. The decay is decoupled, as in the authors' code.
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct AdaBelief : DecayedMeans {
  static constexpr const char* kName = "adabelief";
  static constexpr const char* kNoSparse = "AdaBelief does not support sparse gradients";
  static constexpr State kStates[] = {{"exp_avg"}, non_negative({"exp_avg_var"})};

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real keep, one_minus_beta1, beta2, one_minus_beta2, step_size, s_scale, eps;

    ONEPASS_FN Update(const AdaBelief& h, double t) {
      keep = Real(kept(h));
      one_minus_beta1 = Real(1.0 - h.beta1);
      beta2 = Real(h.beta2);
      one_minus_beta2 = Real(1.0 - h.beta2);
      step_size = Real(h.lr / (1.0 - power(h.beta1, t)));
      s_scale = Real(1.0 / std::sqrt(1.0 - power(h.beta2, t)));
      eps = Real(h.eps);
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &m = states[0], &s = states[1];
      m = lerp(m, g, one_minus_beta1);  // m_t
      const Real surprise = g - m;
      s = beta2 * s + one_minus_beta2 * surprise * surprise + eps;  // s_t
      return p * keep - step_size * m / (std::sqrt(s) * s_scale + eps);
    }
  };
};

}  // namespace onepass
