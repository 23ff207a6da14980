// Averaged gradient descent: Polyak and Juditsky 1992; the rates and the start of the average as in
// Bottou 2012, section 4.2 (Xu 2011).
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct ASGD : Rule {
  double lr, lambd, alpha, t0, weight_decay;

  static constexpr const char* kName = "asgd";
  static constexpr const char* kNoSparse = "ASGD does not support sparse gradients";
  static constexpr State kNumbers[] = {{"eta", nullptr, 0.0, "lr"}, {"mu", nullptr, 1.0}};
  static constexpr State kStates[] = {keeps_floats({"ax"})};  // an average of the parameter
  static constexpr Hyper<ASGD> kHypers[] = {
      hyper::lr(&ASGD::lr),
      {"lambd", "lambd", -1, "lambd value", Range::kNonNegative, &ASGD::lambd},
      {"alpha", "alpha", -1, "alpha value", Range::kNonNegative, &ASGD::alpha},
      {"t0", "t0", -1, "t0 value", Range::kFinite, &ASGD::t0},
      hyper::weight_decay(&ASGD::weight_decay),
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real l2, keep, eta, mu;

    ONEPASS_FN Update(const ASGD& h, double t, StateNumber* numbers) {
      StateNumber &next_eta = numbers[0], &next_mu = numbers[1];
      l2 = Real(h.weight_decay);
      keep = Real(1.0 - h.lambd * next_eta.value);
      eta = Real(next_eta.value);
      mu = Real(next_mu.value);
      next_eta.set(h.lr / power(1.0 + h.lambd * h.lr * t, h.alpha));  // eta_(t+1)
      next_mu.set(1.0 / (t - h.t0 > 1.0 ? t - h.t0 : 1.0));           // mu_(t+1)
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real& ax = states[0];
      g = with_l2(g, l2, p);
      p = p * keep - eta * g;
      ax = mu == Real(1) ? p : ax + mu * (p - ax);  // the average of p from step t0 on
      return p;
    }
  };
};

}  // namespace onepass
