// NovoGrad: Ginsburg et al. 2019, algorithm 1.
#pragma once

#include "math.h"
#include "rule.h"

namespace onepass {

struct NovoGrad : Rule {
  double lr, beta1, beta2, eps, weight_decay;

  static constexpr const char* kName = "novograd";
  static constexpr const char* kNoSparse = "NovoGrad does not support sparse gradients";
  static constexpr int squares(unsigned /*present*/) { return 1; }
  static constexpr State kStates[] = {{"exp_avg"}};
  static constexpr State kNumbers[] = {{"exp_avg_sq"}};
  static constexpr Hyper<NovoGrad> kHypers[] = {
      hyper::lr(&NovoGrad::lr),
      hyper::beta1(&NovoGrad::beta1),
      hyper::beta2(&NovoGrad::beta2),
      hyper::eps(&NovoGrad::eps),
      hyper::weight_decay(&NovoGrad::weight_decay),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    double eps_beside_root, kept_of_v;
    Real beta1, weight_decay, lr, norm_scale;

    ONEPASS_FN Update(const NovoGrad& h, double t, StateNumber* /*numbers*/)
        : eps_beside_root(h.eps),
          kept_of_v(t == 1.0 ? 0.0 : h.beta2),  // v_1 = |g_1|^2
          beta1(h.beta1),
          weight_decay(h.weight_decay),
          lr(h.lr) {}

    ONEPASS_FN void measure(Real /*w*/, Real g, Real* /*states*/, Real* terms) const {
      terms[0] = g;
    }

    ONEPASS_FN void finish(const double* squares, double /*size*/, StateNumber* numbers) {
      StateNumber& v = numbers[0];
      v.set(kept_of_v * v.value + (1.0 - kept_of_v) * squares[0]);  // v_t
      norm_scale = Real(1.0 / (std::sqrt(v.value) + eps_beside_root));
    }

    ONEPASS_FN Real operator()(Real w, Real g, Real* states) const {
      Real& m = states[0];
      m = beta1 * m + (g * norm_scale + weight_decay * w);  // m_t
      return w - lr * m;                                    // w_t
    }
  };
};

}  // namespace onepass
