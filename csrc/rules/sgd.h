// Gradient descent: Robbins and Monro 1951. Momentum: Polyak 1964; Nesterov's: Sutskever et al.
// 2013, equations 3 and 4, in the form that evaluates gradients at the parameters.
#pragma once

#include "decay.h"
#include "rule.h"

namespace onepass {

struct SGD : Rule {
  double lr, momentum, dampening, weight_decay, nesterov;

  static constexpr const char* kName = "sgd";
  static constexpr bool kCountsSteps = false;
  static constexpr State kStates[] = {{"momentum_buffer", "momentum"}};
  static constexpr Hyper<SGD> kHypers[] = {
      hyper::lr(&SGD::lr),
      {"momentum", "momentum", -1, "momentum value", Range::kNonNegative, &SGD::momentum, true},
      {"dampening", "dampening", -1, "dampening value", Range::kFinite, &SGD::dampening},
      hyper::weight_decay(&SGD::weight_decay),
      hyper::flag("nesterov", &SGD::nesterov),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real l2, kept, share, momentum, nesterov, lr;

    ONEPASS_FN Update(const SGD& h, double t) {
      const bool first = t == 1.0;
      l2 = Real(h.weight_decay);
      kept = Real(first ? 0.0 : h.momentum);
      share = Real(first ? 1.0 : 1.0 - h.dampening);  // as torch: b_1 = g_1
      momentum = Real(h.momentum);
      nesterov = Real(h.nesterov);
      lr = Real(h.lr);
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      g = with_l2(g, l2, p);
      if constexpr (kVariantBits != 0) {
        Real& b = states[0];
        b = kept * b + share * g;                        // b_t
        g = nesterov != Real(0) ? g + momentum * b : b;  // the direction d_t
      }
      return p - lr * g;
    }
  };
};

}  // namespace onepass
