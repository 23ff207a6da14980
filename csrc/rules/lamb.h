// LAMB: You et al. 2020, algorithm 2, with phi(z) = z.
#pragma once

#include "math.h"
#include "rule.h"

namespace onepass {

struct LAMB : Rule {
  double lr, beta1, beta2, eps, weight_decay;

  static constexpr const char* kName = "lamb";
  static constexpr const char* kNoSparse = "LAMB does not support sparse gradients";
  static constexpr int squares(unsigned /*present*/) { return 2; }
  static constexpr State kStates[] = {{"exp_avg"}, non_negative({"exp_avg_sq"})};
  static constexpr Hyper<LAMB> kHypers[] = {
      hyper::lr(&LAMB::lr),
      hyper::beta1(&LAMB::beta1),
      hyper::beta2(&LAMB::beta2),
      hyper::eps(&LAMB::eps),
      hyper::weight_decay(&LAMB::weight_decay),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    double lr;
    Real one_minus_beta1, beta2, one_minus_beta2, m_scale, v_scale, eps, weight_decay, step_size;

    ONEPASS_FN Update(const LAMB& h, double t)
        : lr(h.lr),
          one_minus_beta1(1.0 - h.beta1),
          beta2(h.beta2),
          one_minus_beta2(1.0 - h.beta2),
          m_scale(1.0 / (1.0 - power(h.beta1, t))),
          v_scale(1.0 / std::sqrt(1.0 - power(h.beta2, t))),
          eps(h.eps),
          weight_decay(h.weight_decay) {}

    ONEPASS_FN Real direction(Real p, Real g, Real* states) const {
      Real &m = states[0], &v = states[1];
      m = lerp(m, g, one_minus_beta1);                                  // m_t
      v = beta2 * v + one_minus_beta2 * g * g;                          // v_t
      const Real ratio = m * m_scale / (std::sqrt(v) * v_scale + eps);  // r_t
      return ratio + weight_decay * p;
    }

    ONEPASS_FN void measure(Real p, Real g, Real* states, Real* terms) const {
      terms[0] = p;
      terms[1] = direction(p, g, states);
    }

    ONEPASS_FN void finish(const double* squares, double /*size*/, StateNumber* /*numbers*/) {
      step_size = Real(lr * trust_ratio(squares[0], squares[1]));
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      return p - step_size * direction(p, g, states);  // x_(t+1)
    }
  };
};

}  // namespace onepass
