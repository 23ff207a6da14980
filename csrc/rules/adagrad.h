// AdaGrad: Duchi et al. 2011, figure 1 with the diagonal H_t. Deviation, as torch: eps is added to
// the root and not to the sum (eps_root is), and the rate may fall by lr_decay besides.
#pragma once

#include "decay.h"
#include "math.h"
#include "rule.h"

namespace onepass {

struct Adagrad : Rule {
  double lr, lr_decay, weight_decay, eps, eps_root, initial_accumulator_value;

  static constexpr const char* kName = "adagrad";
  static constexpr const char* kNoSparseDecay =
      "weight_decay option is not compatible with sparse gradients";
  static constexpr State kStates[] = {
      non_negative({.name = "sum", .start_at = "initial_accumulator_value"})};
  static constexpr Hyper<Adagrad> kHypers[] = {
      hyper::lr(&Adagrad::lr),
      {"lr_decay", "lr_decay", -1, "lr_decay value", Range::kNonNegative, &Adagrad::lr_decay},
      hyper::weight_decay(&Adagrad::weight_decay),
      hyper::eps(&Adagrad::eps),
      hyper::eps_root(&Adagrad::eps_root),
      {"initial_accumulator_value", "initial_accumulator_value", -1,
       "initial_accumulator_value value", Range::kNonNegative, &Adagrad::initial_accumulator_value,
       false, true},
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real l2, lr, eps, eps_root;

    ONEPASS_FN Update(const Adagrad& h, double t)
        : l2(h.weight_decay),
          lr(h.lr / (1.0 + (t - 1.0) * h.lr_decay)),
          eps(h.eps),
          eps_root(h.eps_root) {}

    ONEPASS_FN Real operator()(Real p, Real g, Real* states) const {
      Real& s = states[0];
      g = with_l2(g, l2, p);
      s = s + g * g;  // s_t, the sum of squares
      return p - lr * g / (std::sqrt(s + eps_root) + eps);
    }
  };
};

}  // namespace onepass
