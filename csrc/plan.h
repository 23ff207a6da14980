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
  unsigned present = 0;  // its states, a bit each
  bool maximize = false;
  double hypers[kMaxHypers] = {};
  int state_count = 0;
  const char* state_names[kMaxStates] = {};

  // Adds the algorithm's state of that number.
  void add_state(std::size_t k) {
    present |= 1u << k;
    state_names[state_count++] = algorithm->states[k].name;
  }
};

// The order of calls is begin, add_group and add for each group, validate, commit, sweep.
class Plan {
 public:
  // Starts a new step. A `grad_scale` other than 0 divides every gradient, which is written back.
  void begin(double grad_scale = 0.0);
  void add_group(const Group& group);
  // Adds the parameter at `index` of the group added last, and returns the place for its tensors.
  // Without a gradient its state is validated and that is all.
  Tensors& add(int index);
  // Validates everything. Nothing after it can fail.
  void validate(const Names& names);
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
    int group, index;
    std::size_t coefficients = 0;
  };

  void validate_entry(Entry& entry, const Subject& subject);
  bool usual_spans(const Tensors& tensors, int states, Span* spans) const;
  void check_operands(Entry& entry, const Subject& subject, Span* spans);
  Span check_gradient(Entry& entry, const Subject& subject);
  void choose_loops(Task& task, const Group& group);
  void add_task(const Entry& entry, const Span* spans, bool usual);
  void plan_strides(Task& task, const Tensors& tensors);
  std::size_t coefficients_for(const Entry& entry, Float arithmetic, double step);
  void find_shared_memory();
  bool gradient_shares_memory(std::size_t k);

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
  std::vector<std::size_t> gaps_;     // which span of written_sorted_ comes after each gradient
  std::deque<std::vector<std::int64_t>> layouts_;  // sizes or strides of operands with strides
  std::deque<at::Tensor> resolved_;                // gradients that were lazily conjugated
  std::vector<c10::Storage> held_;
};

}  // namespace onepass
