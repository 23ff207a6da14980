// Adam: Kingma and Ba 2015, algorithm 1. AMSGrad: Reddi et al. 2018, algorithm 2.
// AdamW: Loshchilov and Hutter 2019, algorithm 2.
#pragma once

#include <iterator>
#include <span>

#include "rule.h"

namespace onepass {

struct Adam {
  double lr, beta1, beta2, eps, weight_decay, eps_root, initial_lr;
  double decouple_lr, decoupled_weight_decay = 0.0;

  static constexpr const char* kName = "adam";
  static constexpr const char* kNoSparse =
      "Adam does not support sparse gradients, please consider SparseAdam instead";
  static constexpr State kStates[] = {{"exp_avg"}, {"exp_avg_sq"}, {"max_exp_avg_sq", "amsgrad"}};
  static constexpr Hyper<Adam> kHypers[] = {
      {"lr", "lr", -1, "learning rate", Range::kNonNegative, &Adam::lr, true},
      {"beta1", "betas", 0, "beta parameter at index 0", Range::kBelowOne, &Adam::beta1, true},
      {"beta2", "betas", 1, "beta parameter at index 1", Range::kBelowOne, &Adam::beta2, true},
      {"eps", "eps", -1, "epsilon value", Range::kNonNegative, &Adam::eps},
      {"weight_decay", "weight_decay", -1, "weight_decay value", Range::kNonNegative,
       &Adam::weight_decay, true},
      {"eps_root", "eps_root", -1, "eps_root value", Range::kNonNegative, &Adam::eps_root, false,
       true},
      {"initial_lr", "initial_lr", -1, "initial_lr value", Range::kNonNegative, &Adam::initial_lr,
       true, true},
      {"decouple_lr", "decouple_lr", -1, "decouple_lr value", Range::kFlag, &Adam::decouple_lr,
       false, true},
      {"decoupled_weight_decay", "decoupled_weight_decay", -1, "decoupled_weight_decay value",
       Range::kFlag, &Adam::decoupled_weight_decay, false, true},
  };

  static constexpr unsigned kAmsgrad = 0b111;  // all three states are present

  template <class Real, unsigned kPresent>
  struct Update {
    Real l2, keep, one_minus_beta1, beta2, one_minus_beta2, step_size, v_scale, eps, eps_root;

    Update(const Adam& h, double t) {
      const double bias_correction1 = 1.0 - power(h.beta1, t);
      const double bias_correction2 = 1.0 - power(h.beta2, t);
      const bool decoupled = h.decoupled_weight_decay != 0.0;
      l2 = Real(decoupled ? 0.0 : h.weight_decay);
      keep = Real(decoupled ? kept(h.lr, h.weight_decay, h.decouple_lr != 0.0, h.initial_lr) : 1.0);
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
      g = l2 != Real(0) ? g + l2 * p : g;       // g_t with coupled decay
      m = lerp(m, g, one_minus_beta1);          // m_t
      v = beta2 * v + one_minus_beta2 * g * g;  // v_t
      Real v_used = v;
      if constexpr (kPresent == kAmsgrad)
        v_used = states[2] = maximum(states[2], v);  // vhat_t of AMSGrad
      const Real denominator = std::sqrt(v_used + eps_root) * v_scale + eps;
      return p * keep - step_size * m / denominator;  // theta_t
    }
  };
};

// Adam with the decay always decoupled.
struct AdamW : Adam {
  static constexpr const char* kName = "adamw";
  static constexpr std::span<const Hyper<Adam>> kHypers{Adam::kHypers,
                                                        std::size(Adam::kHypers) - 1};
  AdamW() { decoupled_weight_decay = 1.0; }
};

}  // namespace onepass
