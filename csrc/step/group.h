// What a step is given of a parameter group and of its gradient scaler.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include "../registry/algorithm.h"

namespace onepass {

// What the tasks of a parameter group depend on.
struct GroupKind {
  const Algorithm* algorithm;
  unsigned variant;
  bool rounds_weights_randomly, rounds_states_randomly;

  bool operator==(const GroupKind&) const = default;
};

// A parameter group: the algorithm, which of its states are present, the hyper-parameters.
struct Group {
  const Algorithm* algorithm = nullptr;
  unsigned present = 0;  // its states, a bit each
  bool maximize = false;
  double max_grad_norm = 0.0;   // clips to this norm of all gradients; 0: does not
  bool skip_nonfinite = false;  // takes no step where that norm is not finite
  bool rounds_weights_randomly = false, rounds_states_randomly = false;  // those of 16 bits
  double hypers[kMaxHypers] = {};
  // Those of them that are read on the device alone, by position.
  std::vector<std::pair<int, at::Tensor>> device_hypers = {};
  int state_count = 0;
  const char* state_names[kMaxStates] = {};
  bool is_non_negative[kMaxStates] = {};  // by state

  const Variant& variant() const { return algorithm->variants[variant_index()]; }
  unsigned variant_index() const {
    const int option = algorithm->option;
    const bool is_on = option >= 0 && hypers[option] != 0.0;
    return present | static_cast<unsigned>(is_on) << algorithm->states.size();
  }

  bool rounds_randomly() const { return rounds_weights_randomly || rounds_states_randomly; }
  bool needs_grad_norm() const { return max_grad_norm != 0.0 || skip_nonfinite; }

  GroupKind kind() const {
    return {algorithm, variant_index(), rounds_weights_randomly, rounds_states_randomly};
  }

  // Adds the algorithm's state of that number.
  void add_state(std::size_t k) {
    present |= 1u << k;
    is_non_negative[state_count] = algorithm->states[k].is_non_negative;
    state_names[state_count++] = algorithm->states[k].name;
  }
};

// What a gradient scaler asks of a step: numbers that the host knows, or tensors on a device.
struct Scaler {
  double grad_scale = 0.0;  // gradients are divided by it and written back; 0: neither
  at::Tensor device_grad_scale = {}, found_inf = {};

  bool scales() const { return grad_scale != 0.0 || device_grad_scale.defined(); }
};

}  // namespace onepass
