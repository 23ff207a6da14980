// The plan of one step: everything it will touch, validated. Nothing is written before commit().
#pragma once

#include <ATen/core/Tensor.h>

#include <deque>
#include <vector>

#include "algorithm.h"
#include "operand.h"
#include "sweep/sweep.h"

namespace onepass {

// The tensors of one parameter, borrowed: they outlive the plan of the step.
struct Tensors {
  const at::TensorBase* param = nullptr;
  const at::TensorBase* grad = nullptr;
  const at::TensorBase* step = nullptr;
  const at::TensorBase* states[kMaxStates] = {};
};

// A parameter group: the algorithm, which of its states are present, the hyper-parameters.
struct Group {
  const Algorithm* algorithm = nullptr;
  unsigned present = 0;
  bool maximize = false;
  double hypers[kMaxHypers] = {};
};

// The order of calls is begin, add_group and add for each group, finish, commit, sweep.
class Plan {
 public:
  // Starts a new step. A `grad_scale` other than 0 divides every gradient, which is written back.
  void begin(double grad_scale = 0.0);
  void add_group(const Group& group);
  // Validates one parameter of the group added last and plans its sweep. Without a gradient it only
  // validates the states.
  void add(const Tensors& tensors, const Subject& subject);
  // Ends the validation: finds parameters that share memory. Nothing after it can fail.
  void finish();
  // Counts the steps and bumps the version counters.
  void commit();
  // Keeps the memory alive until clear(), whatever other threads let go of meanwhile.
  void hold();
  // Sweeps all tasks.
  void sweep() const;
  // Forgets all tensors and keeps the vectors' memory for the next step.
  void clear();

  std::int64_t elements() const { return ends_.empty() ? 0 : ends_.back(); }

 private:
  struct CoefficientKey {
    int group;
    double step;
    Float arithmetic;
    bool operator==(const CoefficientKey&) const = default;
  };
  struct Entry {
    Tensors tensors;
    int group;
    std::size_t coefficients = 0;
  };

  Span check_gradient(Tensors& tensors, const Subject& subject);
  void add_task(const Tensors& tensors, const Span* spans);
  void plan_strides(Task& task, const Tensors& tensors);
  std::size_t coefficients_for(const Entry& entry, Float arithmetic, double step);
  bool gradient_shares_memory(std::size_t k) const;

  double grad_scale_ = 0.0;
  bool writes_overlap_ = false;  // the verdict on written_before_
  bool in_order_ = false;        // some tasks share memory: sweep one after the other
  std::vector<Group> groups_;
  std::vector<Entry> entries_;
  std::vector<Task> tasks_;
  std::vector<std::int64_t> ends_;
  std::vector<Span> gradients_, written_, written_before_, written_sorted_;
  std::vector<Coefficients> coefficients_;
  std::vector<CoefficientKey> keys_;  // of coefficients_
  std::deque<std::vector<std::int64_t>> layouts_;  // sizes or strides of operands with strides
  std::deque<at::Tensor> resolved_;                // gradients that were lazily conjugated
  std::vector<c10::Storage> held_;
};

}  // namespace onepass
