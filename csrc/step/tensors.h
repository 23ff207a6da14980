// What a step is given of a parameter.
#pragma once

#include <ATen/core/TensorBase.h>

#include "../rules/rule.h"
#include "sparse.h"

namespace onepass {

// The tensors of one parameter, borrowed: they outlive the plan of the step.
struct Tensors {
  const at::TensorBase* param = nullptr;
  const at::TensorBase* grad = nullptr;
  const at::TensorBase* step = nullptr;  // null where the algorithm counts none
  const at::TensorBase* numbers[kMaxNumbers] = {};
  const at::TensorBase* states[kMaxStates] = {};
  const at::TensorBase* exponents[kMaxStates] = {};  // of states that are codes; else null
  DecayLog decay_log;                                // null where no row has missed decay
  bool has_codes = false;  // some state is codes: else no exponents are looked at
  bool is_new = false;     // the states were made for this step

  // The exponents of a state that is codes, else null.
  const at::TensorBase* exponents_of(int state) const {
    return has_codes ? exponents[state] : nullptr;
  }

  // Calls visit(tensor) for those that nearly every parameter has.
  template <void (*visit)(const at::TensorBase&)>
  [[gnu::always_inline]] void for_each(int state_count) const {
    visit(*param);
    if (grad != nullptr) visit(*grad);
    if (step != nullptr) visit(*step);
    for (int k = 0; k < state_count; ++k) visit(*states[k]);
  }
};

}  // namespace onepass
