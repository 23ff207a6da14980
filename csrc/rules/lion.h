// Lion: Chen et al. 2023, algorithm 2.
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct Lion : Rule {
  double lr, beta1, beta2, weight_decay, reference_lr, decouple_lr, cautious;

  static constexpr const char* kName = "lion";
  static constexpr const char* kNoSparse = "Lion does not support sparse gradients";
  static constexpr State kStates[] = {{"exp_avg"}};
  static constexpr Hyper<Lion> kHypers[] = {
      hyper::lr(&Lion::lr),
      hyper::beta1(&Lion::beta1),
      hyper::beta2(&Lion::beta2),
      hyper::weight_decay(&Lion::weight_decay),
      hyper::reference_lr(&Lion::reference_lr),
      hyper::flag("decouple_lr", &Lion::decouple_lr),
      hyper::flag("cautious", &Lion::cautious),
  };
  static constexpr std::string_view kOption = "cautious";
  static constexpr unsigned kCautious = 0b10;
  static constexpr int squares(unsigned present) { return (present & kCautious) != 0 ? 1 : 0; }

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real keep, one_minus_beta1, one_minus_beta2, lr;

    ONEPASS_FN Update(const Lion& h, double)
        : keep(kept(h)), one_minus_beta1(1.0 - h.beta1), one_minus_beta2(1.0 - h.beta2), lr(h.lr) {}

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real& m = states[0];
      const Real direction = sign(lerp(m, g, one_minus_beta1));  // c_t
      m = lerp(m, g, one_minus_beta2);                           // m_t
      if constexpr ((kVariantBits & kCautious) != 0)
        return p * keep - (agree(direction, g) ? lr * direction : Real(0));
      return p * keep - lr * direction;
    }

    ONEPASS_FN void measure(Real /*p*/, Real g, Real* states, Real* terms) const {
      terms[0] = agreement(lerp(states[0], g, one_minus_beta1), g);
    }
    ONEPASS_FN void finish(const double* squares, double size, StateNumber* /*numbers*/) {
      lr *= Real(cautious_scale(squares[0], size));
    }
  };
};

}  // namespace onepass
