// The plan of one step: everything it will touch, validated. Nothing is written before commit().
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <deque>
#include <utility>
#include <vector>

#include "algorithm.h"
#include "cuda/place.h"
#include "cuda/step.h"
#include "operand.h"
#include "prefetch.h"
#include "sparse.h"
#include "sweep/sweep.h"

namespace onepass {

// The tensors of one parameter, borrowed: they outlive the plan of the step.
struct Tensors {
  const at::TensorBase* param = nullptr;
  const at::TensorBase* grad = nullptr;
  const at::TensorBase* step = nullptr;  // null where the algorithm counts none
  const at::TensorBase* numbers[kMaxNumbers] = {};
  const at::TensorBase* states[kMaxStates] = {};
  DecayLog decay_log;   // null where no row has missed decay
  bool is_new = false;  // the states were made for this step

  // Calls visit(tensor) for those that nearly every parameter has.
  template <void (*visit)(const at::TensorBase&)>
  [[gnu::always_inline]] void for_each(int state_count) const {
    visit(*param);
    if (grad != nullptr) visit(*grad);
    if (step != nullptr) visit(*step);
    for (int k = 0; k < state_count; ++k) visit(*states[k]);
  }
};

// What the tasks of a parameter group depend on.
struct TaskKind {
  const Algorithm* algorithm;
  unsigned variant;
  bool maximize;

  bool operator==(const TaskKind&) const = default;
};

// A parameter group: the algorithm, which of its states are present, the hyper-parameters.
struct Group {
  const Algorithm* algorithm = nullptr;
  unsigned present = 0;  // its states, a bit each
  bool maximize = false;
  double hypers[kMaxHypers] = {};
  // Those of them that are read on the device alone, by position.
  std::vector<std::pair<int, at::Tensor>> on_device = {};
  int state_count = 0;
  const char* state_names[kMaxStates] = {};

  const Variant& variant() const { return algorithm->variants[variant_index()]; }
  unsigned variant_index() const {
    const int option = algorithm->option;
    const bool is_on = option >= 0 && hypers[option] != 0.0;
    return present | static_cast<unsigned>(is_on) << algorithm->states.size();
  }

  TaskKind kind() const { return {algorithm, variant_index(), maximize}; }

  // Adds the algorithm's state of that number.
  void add_state(std::size_t k) {
    present |= 1u << k;
    state_names[state_count++] = algorithm->states[k].name;
  }
};

// What a gradient scaler asks of a step: numbers that the host knows, or tensors on a device.
struct Scaler {
  double grad_scale = 0.0;  // gradients are divided by it and written back; 0: neither
  at::Tensor device_grad_scale = {}, found_inf = {};

  bool scales() const { return grad_scale != 0.0 || device_grad_scale.defined(); }
};

// The order of calls is begin, add for each parameter, validate, stage, commit, sweep. From
// commit() on nothing fails, allocates or runs code of Python's, so that no step is taken by half.
//
// Between steps a plan keeps addresses, and what it concluded from them. It looks every tensor up
// anew in every step; where all it finds about a parameter is as before, so is the conclusion.
class Plan {
 public:
  // Starts a new step.
  void begin(std::span<const Group> groups, const Scaler& scaler = {});
  // Adds the parameter at `index` of a group with its tensors, which may be completed until
  // validate(). Without a gradient its state is validated and that is all.
  Tensors& add(int group, int index, const Tensors& tensors = {});
  // Validates everything.
  void validate(const Names& names);
  // Allocates what commit() and sweep() need, and copies to devices what their kernels read.
  // Nothing after it can fail but a device.
  void stage();
  // Counts the steps and bumps the version counters.
  void commit();
  // Sweeps all tasks, those on devices without waiting for them.
  void sweep();
  // Forgets all tensors and keeps the vectors' memory for the next step.
  void clear();

  // The logs that states lack: where validate() made any, the step has to be planned anew with
  // them.
  const std::deque<NewDecayLog>& new_decay_logs() const { return new_decay_logs_; }

  // Whether the step is so large that other threads may run during sweep(). Then stage() holds all
  // memory until clear(), whatever they let go of.
  bool lets_others_run() const { return elements() > kReleaseThreshold; }
  // Whether one of two validated steps writes what the other reads or writes.
  bool shares_memory(const Plan& other) const;
  // Whether some parameter with a gradient is on the CPU.
  bool steps_on_cpu() const;

 private:
  // What the coefficients computed last belong to.
  struct CoefficientKey {
    const Group* group = nullptr;
    double step = 0.0;
    Float arithmetic = {};
    std::array<Number, kMaxNumbers> numbers = {};
  };
  struct Entry {
    Tensors tensors;
    int group, index;
    bool on_device = false;
    float* count = nullptr;  // of a usual step tensor
    Rows* rows = nullptr;    // of a sparse gradient
    double* keep = nullptr;  // the share that remains of rows which missed decay
    Coefficients* coefficients = nullptr;
  };
  using Spans = std::array<Span, kMaxOperands>;  // parameter, gradient, states
  // What a task was made from; `usual` says that spans, type and group are all there is to it.
  struct Origin {
    Spans spans = {};
    int group = -1;
    caffe2::TypeMeta type;
    bool usual = false;
    const at::TensorImpl* device_count = nullptr;
  };

  // How many parameters ahead the headers of tensors are asked for, and then what they lead to.
  static constexpr std::size_t kHeadersAhead = 8, kPartsAhead = 4;

  void validate_entry(std::size_t k, const Subject& subject);
  inline bool keep_task(std::size_t k, const Spans& spans);
  inline void check_numbers(Entry& entry, const Subject& subject);
  void allot_keep(Entry& entry);
  void check_step_count(const Entry& entry, const Subject& subject) const;
  inline bool usual_spans(const Tensors& tensors, int states, Spans& spans) const;
  void check_operands(Entry& entry, const Subject& subject, Spans& spans);
  Span check_gradient(Entry& entry, const Subject& subject);
  void check_sparse_gradient(Entry& entry, const Subject& subject);
  void want_decay_log(Entry& entry, std::int64_t sparse_dim, const Subject& subject);
  void catch_up(std::size_t k);
  void catch_up_rows(std::size_t first, std::size_t last);
  void finish_coefficients(std::size_t first, std::size_t last);
  void hold();
  bool goes_by_index(const Entry& entry) const;
  void choose_loops(std::size_t k);
  void make_task(std::size_t k, const Spans& spans, bool usual);
  void plan_strides(Task& task, const Entry& entry);
  Coefficients& coefficients_for(std::size_t k, double step);
  std::int64_t elements() const { return ends_.empty() ? 0 : ends_.back(); }  // on the CPU
  std::span<const NumberMemory> numbers_of(std::size_t k) const {
    const std::size_t count = groups_[entries_[k].group].algorithm->numbers.size();
    return std::span(numbers_).subspan(k * count, count);
  }
  void lay_end_to_end();
  void find_shared_memory();
  bool gradient_shares_memory(std::size_t k);
  void add_numbers(const Entry& entry, std::vector<Span>& spans) const;
  static double next_step(const Entry& entry);
  // The step tensor of a parameter on a device, which other parameters might share.
  static const at::TensorImpl* device_count(const Entry& entry) {
    const at::TensorBase* const step = entry.on_device ? entry.tensors.step : nullptr;
    return step == nullptr ? nullptr : step->unsafeGetTensorImpl();
  }
  void gather_on_devices();
  void stage_on_devices();
  void stage_on(c10::Device device, const std::vector<cuda::Parameter>& parameters);
  void sweep_on_devices();

  Scaler scaler_;
  bool scaled_ = false;       // scaler_.scales()
  int instruction_set_ = -1;  // that the loops of tasks_ are for
  cuda::Emulation emulation_ = {};
  bool writes_changed_ = false;  // since the verdict of find_shared_memory
  bool grads_changed_ = false;
  bool writes_overlap_ = false;
  bool sums_ = false;        // some group's coefficients wait for sums
  bool catches_up_ = false;  // some parameter with a dense gradient has rows that missed decay
  bool in_order_ = false;    // some tasks share memory: sweep one after the other
  std::span<const Group> groups_;
  std::vector<TaskKind> kinds_before_;  // of the groups that origins_ refers to
  std::vector<Entry> entries_;
  std::vector<Task> tasks_;  // this and the next three: by entry, and kept between steps
  std::vector<Origin> origins_;
  std::vector<std::int64_t> ends_;
  std::vector<std::size_t> gaps_;  // which span of written_sorted_ comes after each gradient
  std::vector<Span> written_sorted_;
  std::vector<Coefficients> coefficients_;
  std::vector<NumberMemory> numbers_;  // those of each entry
  SquareSums squares_;
  CoefficientKey key_;                                 // of the last of coefficients_
  std::array<Number, kMaxNumbers> next_numbers_ = {};  // after the step it belongs to
  std::deque<std::vector<std::int64_t>> layouts_;      // sizes or strides of operands with strides
  std::deque<at::Tensor> resolved_;                    // gradients that were lazily conjugated
  std::deque<Rows> rows_;                              // of sparse gradients
  std::deque<std::vector<double>> keep_;               // of entries
  std::deque<NewDecayLog> new_decay_logs_;
  std::vector<c10::Storage> held_;
  std::vector<std::pair<c10::Device, cuda::DeviceSteps>> device_steps_;
  std::vector<std::pair<c10::Device, std::vector<cuda::Parameter>>> on_devices_;
  std::vector<at::Tensor> moved_;  // what the scaler set, on the devices of parameters
};

}  // namespace onepass
