// A step as Python asks for it: reads param_groups and state of a torch.optim.Optimizer natively.
#pragma once

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "plan.h"
#include "python_access.h"
#include "python_options.h"
#include "python_state.h"
#include "tensor/dtensor.h"

namespace onepass {

// One per optimizer. Keeps no tensor of the optimizer between calls, but addresses that it
// compares, or uses only while Python vouches for them, so that it can never be stale.
class PythonStep {
 public:
  explicit PythonStep(const std::string& algorithm_name);

  // Takes one step. Returns false, with nothing done, where a tensor is of a class of its own, but
  // for DTensors that are placed alike.
  // `new_state(param, group)` makes the state of a parameter that has none yet.
  bool step(const py::list& groups, const py::dict& state, const py::function& new_state,
            const py::object& grad_scale, const py::object& found_inf);

  // How many steps were taken; one that was refused or skipped does not count.
  std::int64_t steps_taken() const { return steps_taken_; }

  // Whether a step is skipped because the gradient scaler found an overflow.
  static bool skips(const py::object& found_inf);

  // Refuses what step() would refuse and makes the states that it would make, but takes no step.
  bool rehearse(const py::list& groups, const py::dict& state, const py::function& new_state);

  // Validates the groups from `first_group` on, and the state of all parameters that have one.
  void check(const py::list& groups, const py::dict& state, int first_group);

  // Refuses wrong types among a constructor's arguments, and with `ranges` what is out of range.
  void check_arguments(const py::dict& arguments, bool ranges);

 private:
  enum class Look { kAtGradients, kAtStates };
  class Session;

  bool read_scaler(const py::object& grad_scale, const py::object& found_inf);
  bool read_scaler_on_cpu();
  const at::Tensor* count_of(const at::Tensor& state, bool is_new);
  bool prepare(PyObject* groups, const py::dict& state, const py::function& new_state,
               NewEntries& made);
  void plan_anew(PyObject* groups, PyObject* state);
  bool gather(PyObject* groups, PyObject* state, Look look);
  inline void note_first_step(PyObject* param, Tensors& tensors);
  bool gather_group(PyObject* groups, int index, Look look);
  bool localize(const at::Tensor*& param, const at::Tensor*& grad, PyObject*& spec);
  bool localize_state(Tensors& tensors, PyObject* spec, int state_count);

  const Algorithm& algorithm_;
  GroupReader reader_;
  StateReader states_;
  bool busy_ = false;
  std::int64_t steps_taken_ = 0;
  Scaler scaler_;
  int first_group_ = 0;
  std::span<const Group> groups_;
  std::vector<std::pair<py::object, py::object>> stateless_;  // (parameter, its group)
  std::vector<py::object> new_;  // the parameters whose state was made for this step, in order
  std::size_t next_new_ = 0;     // which of them may come next
  // Of an algorithm that counts no steps, the counts of states that were new in a step that a
  // device may have skipped: only there it is known which step is the first. By the state's
  // address.
  struct Count {
    c10::weak_intrusive_ptr<c10::TensorImpl> state;
    at::Tensor steps;
  };
  std::unordered_map<const c10::TensorImpl*, Count> counts_;
  DTensorReader dtensors_;
  std::vector<c10::TensorImpl*> wrappers_;  // the DTensors among the parameters
  Plan plan_;
};

}  // namespace onepass
