// One parameter of a step: what was borrowed of it, and what the plan has made of that.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "../registry/algorithm.h"
#include "../tensor/step_count.h"
#include "sparse.h"
#include "tensors.h"

namespace onepass {

struct Entry {
  Tensors tensors;
  int group, index;
  bool on_device = false;
  float* count = nullptr;                       // of a usual step tensor
  StateNumberMemory numbers[kMaxNumbers] = {};  // that coefficients read and change
  Rows* rows = nullptr;                         // of a sparse gradient
  double* keep = nullptr;                       // the share that remains of rows which missed decay
  Coefficients* coefficients = nullptr;

  // The step tensor of a parameter on a device, which other parameters might share.
  const at::TensorImpl* device_count() const {
    const at::TensorBase* const step = on_device ? tensors.step : nullptr;
    return step == nullptr ? nullptr : step->unsafeGetTensorImpl();
  }
};

// Of the parameter, its gradient, its states and, from kExponents on, the states' exponents.
inline constexpr int kExponents = kMaxOperands;
using ByteRanges = std::array<ByteRange, kMaxOperands + kMaxStates>;

// What a task was made from; `usual` says that ranges, type and group are all there is to it.
struct TaskOrigin {
  ByteRanges ranges = {};
  int group = -1;
  caffe2::TypeMeta type;
  bool usual = false, has_codes = false;
  const at::TensorImpl* device_count = nullptr;
};

// What a step makes for itself and lets go of at its end. Tasks point into it.
struct StepMemory {
  std::deque<std::vector<std::int64_t>> layouts;  // sizes or strides of operands with strides
  std::deque<at::Tensor> resolved;                // gradients that were lazily conjugated
  std::deque<Rows> rows;                          // of sparse gradients
  std::deque<std::vector<double>> keep;           // of entries
  std::deque<NewDecayLog> new_decay_logs;
  std::vector<c10::Storage> held;  // the memory that a large step touches

  void clear() {
    layouts.clear();
    resolved.clear();
    rows.clear();
    keep.clear();
    new_decay_logs.clear();
    held.clear();
  }
};

}  // namespace onepass
