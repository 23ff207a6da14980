// Momentum as an exponential moving average: the heavy ball of Polyak 1964 with its gradients
// weighted by 1 - momentum. Bias correction: Kingma and Ba 2015, section 3. Look-ahead: Nesterov's
// as in Sutskever et al. 2013, section 2, whose weights sum to 1 - momentum^(t + 1).
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct Momentum : Rule {
  double lr, momentum, weight_decay, reference_lr, bias_correction, nesterov,
      decoupled_weight_decay;
  double decouple_lr;

  static constexpr const char* kName = "momentum";
  static constexpr const char* kNoSparse = "Momentum does not support sparse gradients";
  static constexpr State kStates[] = {{"exp_avg"}};
  static constexpr Hyper<Momentum> kHypers[] = {
      hyper::lr(&Momentum::lr),
      {"momentum", "momentum", -1, "momentum value", Range::kBelowOne, &Momentum::momentum, true},
      hyper::weight_decay(&Momentum::weight_decay),
      hyper::reference_lr(&Momentum::reference_lr),
      hyper::flag("bias_correction", &Momentum::bias_correction),
      hyper::flag("nesterov", &Momentum::nesterov),
      hyper::flag("decoupled_weight_decay", &Momentum::decoupled_weight_decay),
      hyper::flag("decouple_lr", &Momentum::decouple_lr),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real l2, keep, one_minus_momentum, nesterov, step_size;

    ONEPASS_FN Update(const Momentum& h, double t) {
      const double weights = 1.0 - power(h.momentum, h.nesterov != 0.0 ? t + 1.0 : t);
      l2 = Real(l2_if_coupled(h));
      keep = Real(kept_if_decoupled(h));
      one_minus_momentum = Real(1.0 - h.momentum);
      nesterov = Real(h.nesterov);
      step_size = Real(h.bias_correction != 0.0 ? h.lr / weights : h.lr);
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real& v = states[0];
      g = with_l2(g, l2, p);
      v = lerp(v, g, one_minus_momentum);  // v_t
      // Nesterov's direction, outside of the selection: inside it the loop is not vectorised.
      const Real ahead = lerp(v, g, one_minus_momentum);
      return p * keep - step_size * (nesterov != Real(0) ? ahead : v);
    }
  };
};

}  // namespace onepass
