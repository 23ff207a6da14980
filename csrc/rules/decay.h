// Weight decay, coupled (L2 regularization) and decoupled.
#pragma once

#include "../portable.h"

namespace onepass {

// The gradient with the coupled decay of L2 regularization.
template <class Real>
ONEPASS_FN Real with_l2(Real g, Real l2, Real p) {
  return l2 != Real(0) ? g + l2 * p : g;
}

// Decoupled weight decay: the factor that remains of a parameter after one step (Loshchilov and
// Hutter 2019, algorithm 2, line 12, with lr for their eta alpha). With `decouple_lr` the decay
// follows the schedule alone, lr over the largest rate so far, so that a step at lr = 0 changes
// nothing and no step takes more than weight_decay. reference_lr is that rate before this step.
template <class Rule>
ONEPASS_FN double kept(const Rule& h) {
  if (h.decouple_lr == 0.0) return 1.0 - h.lr * h.weight_decay;
  if (h.lr == 0.0) return 1.0;
  const double largest = h.lr > h.reference_lr ? h.lr : h.reference_lr;
  return 1.0 - h.weight_decay * (h.lr / largest);
}

// Of a rule whose decay may be either: the weight of L2 if it is coupled, and the factor that
// remains of the parameter if it is decoupled. Each is neutral where the other is used.
template <class Rule>
ONEPASS_FN bool is_decoupled(const Rule& h) {
  return h.decoupled_weight_decay != 0.0;
}
template <class Rule>
ONEPASS_FN double l2_if_coupled(const Rule& h) {
  return is_decoupled(h) ? 0.0 : h.weight_decay;
}
template <class Rule>
ONEPASS_FN double kept_if_decoupled(const Rule& h) {
  return is_decoupled(h) ? kept(h) : 1.0;
}

}  // namespace onepass
