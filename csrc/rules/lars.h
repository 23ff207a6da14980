// LARS: You et al. 2017, algorithm 1.
#pragma once

#include "math.h"
#include "rule.h"

namespace onepass {

struct LARS : Rule {
  double lr, momentum, weight_decay, trust_coefficient, eps;

  static constexpr const char* kName = "lars";
  static constexpr const char* kNoSparse = "LARS does not support sparse gradients";
  static constexpr int squares(unsigned /*present*/) { return 2; }
  static constexpr bool kCountsSteps = false;
  static constexpr State kStates[] = {{"momentum_buffer"}};
  static constexpr Hyper<LARS> kHypers[] = {
      hyper::lr(&LARS::lr),
      {"momentum", "momentum", -1, "momentum value", Range::kNonNegative, &LARS::momentum, true},
      hyper::weight_decay(&LARS::weight_decay),
      {"trust_coefficient", "trust_coefficient", -1, "trust_coefficient value", Range::kNonNegative,
       &LARS::trust_coefficient},
      hyper::eps(&LARS::eps),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    double lr, decay, trust_coefficient, eps;
    Real momentum, weight_decay, local_lr;

    ONEPASS_FN Update(const LARS& h, double /*t*/)
        : lr(h.lr),
          decay(h.weight_decay),
          trust_coefficient(h.trust_coefficient),
          eps(h.eps),
          momentum(h.momentum),
          weight_decay(h.weight_decay) {}

    ONEPASS_FN void measure(Real w, Real g, Real* /*states*/, Real* terms) const {
      terms[0] = w;
      terms[1] = g;
    }

    // Deviation: where one of the norms is 0 the rate is lr, as in the authors' code.
    ONEPASS_FN void finish(const double* squares, double /*size*/, StateNumber* /*numbers*/) {
      const double w = std::sqrt(squares[0]), g = std::sqrt(squares[1]);
      const double local = trust_coefficient * w / (g + decay * w + eps);  // lambda_l
      local_lr = Real(lr * (w == 0.0 || g == 0.0 ? 1.0 : local));
    }

    ONEPASS_FN Real operator()(Real w, Real g, Real* states) const {
      Real& v = states[0];
      v = momentum * v + local_lr * (g + weight_decay * w);  // v_(t+1)
      return w - v;                                          // w_(t+1)
    }
  };
};

}  // namespace onepass
