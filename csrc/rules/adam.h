// Adam: Kingma and Ba 2015, algorithm 1. AMSGrad: Reddi et al. 2018, algorithm 2.
// AdamW: Loshchilov and Hutter 2019, algorithm 2.
#pragma once

#include <iterator>
#include <span>

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct Adam : Rule {
  double lr, beta1, beta2, eps, weight_decay, eps_root, reference_lr;
  double decouple_lr, cautious, decoupled_weight_decay = 0.0;

  static constexpr const char* kName = "adam";
  static constexpr State kStates[] = {
      {"exp_avg"}, non_negative({"exp_avg_sq"}), non_negative({"max_exp_avg_sq", "amsgrad"})};
  static constexpr Hyper<Adam> kHypers[] = {
      hyper::lr(&Adam::lr),
      hyper::beta1(&Adam::beta1),
      hyper::beta2(&Adam::beta2),
      hyper::eps(&Adam::eps),
      hyper::weight_decay(&Adam::weight_decay),
      hyper::eps_root(&Adam::eps_root),
      hyper::reference_lr(&Adam::reference_lr),
      hyper::flag("decouple_lr", &Adam::decouple_lr),
      hyper::flag("cautious", &Adam::cautious),
      hyper::flag("decoupled_weight_decay", &Adam::decoupled_weight_decay),
  };

  // What a step keeps of rows that a sparse gradient has no values for.
  double kept_without_gradient() const { return kept_if_decoupled(*this); }

  static constexpr std::string_view kOption = "cautious";
  static constexpr unsigned kAmsgrad = 0b100, kCautious = 0b1000;
  static constexpr int squares(unsigned present) { return (present & kCautious) != 0 ? 1 : 0; }

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real l2, keep, one_minus_beta1, beta2, one_minus_beta2, step_size, v_scale, eps, eps_root;

    ONEPASS_FN Update(const Adam& h, double t) {
      const double bias_correction1 = 1.0 - power(h.beta1, t);
      const double bias_correction2 = 1.0 - power(h.beta2, t);
      l2 = Real(l2_if_coupled(h));
      keep = Real(kept_if_decoupled(h));
      one_minus_beta1 = Real(1.0 - h.beta1);
      beta2 = Real(h.beta2);
      one_minus_beta2 = Real(1.0 - h.beta2);
      step_size = Real(h.lr / bias_correction1);
      v_scale = Real(1.0 / std::sqrt(bias_correction2));
      eps = Real(h.eps);
      eps_root = Real(h.eps_root * bias_correction2);
    }

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real &m = states[0], &v = states[1];
      g = with_l2(g, l2, p);                    // g_t with coupled decay
      m = lerp(m, g, one_minus_beta1);          // m_t
      v = beta2 * v + one_minus_beta2 * g * g;  // v_t
      Real v_used = v;
      if constexpr ((kVariantBits & kAmsgrad) != 0)
        v_used = states[2] = maximum(states[2], v);  // vhat_t of AMSGrad
      const Real denominator = std::sqrt(v_used + eps_root) * v_scale + eps;
      if constexpr ((kVariantBits & kCautious) != 0)
        return p * keep - (agree(m, g) ? step_size * m / denominator : Real(0));
      return p * keep - step_size * m / denominator;  // theta_t
    }

    ONEPASS_FN void measure(Real p, Real g, Real* states, Real* terms) const {
      g = with_l2(g, l2, p);
      terms[0] = agreement(lerp(states[0], g, one_minus_beta1), g);
    }
    ONEPASS_FN void finish(const double* squares, double size, StateNumber* /*numbers*/) {
      step_size *= Real(cautious_scale(squares[0], size));
    }
  };
};

// Adam with the decay always decoupled.
struct AdamW : Adam {
  static constexpr const char* kName = "adamw";
  static constexpr std::span<const Hyper<Adam>> kHypers{Adam::kHypers,
                                                        std::size(Adam::kHypers) - 1};
  ONEPASS_FN AdamW() { decoupled_weight_decay = 1.0; }
};

}  // namespace onepass
