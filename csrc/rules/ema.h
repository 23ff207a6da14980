// The exponential moving average of tensors that something else computes, for example of a model's
// weights. Bias correction: Kingma and Ba 2015, section 3, of an average that started at zero,
// folded into the weight: if m_t is the corrected average, m_t = lerp(m_(t-1), x_t, w_t).
#pragma once

#include "math.h"
#include "rule.h"

namespace onepass {

struct EMA : Rule {
  double beta, step;  // step: the update's number where the average is corrected, else 0

  static constexpr const char* kName = "ema";
  static constexpr bool kIsOptimizer = false;
  static constexpr bool kCountsSteps = false;
  static constexpr Roles kRoles{"averages", "values", "the value"};
  static constexpr std::span<const State> kStates{};
  static constexpr Hyper<EMA> kHypers[] = {
      {"beta", "beta", -1, "beta value", Range::kBelowOne, &EMA::beta, true},
      {"step", "step", -1, "step value", Range::kNonNegative, &EMA::step, true, true},
  };

  template <class Real, unsigned kVariantBits>
  struct Update {
    Real weight, first;

    ONEPASS_FN Update(const EMA& h, double /*t*/) {
      first = Real(h.step == 1.0);
      weight = Real(h.step == 0.0 ? 1.0 - h.beta : (1.0 - h.beta) / (1.0 - power(h.beta, h.step)));
    }

    // The first value is copied, whatever the average was: weight 1 would keep its NaN.
    ONEPASS_FN Real operator()(Real average, Real value, Real* /*states*/) const {
      return first != Real(0) ? value : fused_lerp(average, value, weight);
    }
  };
};

}  // namespace onepass
