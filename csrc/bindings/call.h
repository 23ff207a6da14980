// One call of an optimizer's native half: what it reads of groups and state, and its plan.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "../step/device_counts.h"
#include "../step/plan.h"
#include "averages.h"
#include "dtensor.h"
#include "param_groups.h"
#include "param_places.h"
#include "param_state.h"
#include "pyobject.h"

namespace onepass {

// What all calls of one optimizer share. Several may be under way, each in a thread of its own;
// what is here changes only where no code of Python's runs.
struct SharedByCalls {
  DeviceCounts counts;
  ParamPlaces places;
};

// The optimizer's containers, as Python passes them, and the only parameter that the call is about;
// null: it is about all.
struct Containers {
  PyObject* groups;
  const py::dict& state;
  PyObject* param = nullptr;
};

// Keeps no tensor of the optimizer between calls, only addresses that it compares, so that it can
// never be stale.
class Call {
 public:
  Call(const Algorithm& algorithm, SharedByCalls& shared);

  // Whether there is a step to take, as far as the host knows.
  bool read_scaler(const py::object& grad_scale, const py::object& found_inf);
  // Plans the step. Returns false where a tensor is of a class of its own, but for DTensors that
  // are placed alike. `new_state(param, group)` makes the state of a parameter that has none yet.
  bool prepare(const Containers& containers, const py::function& new_state, NewEntries& made);
  // Waits for what a device knows of the scaler, where parameters on the CPU need it. Returns false
  // where the step is skipped.
  bool settle_scaler(const Containers& containers);
  // Allocates what the step needs; the last that may fail. Returns false where the gradients' norm
  // forbids the step. The averages, which are staged, move with it.
  bool stage(const Containers& containers, std::span<Averages* const> averages);
  // The norm of all gradients, where a group asked for it.
  const std::optional<GradNorm>& grad_norm() const { return plan_.grad_norm(); }
  // Carries the step out: nothing of it fails but a device.
  void take(std::span<Averages* const> averages);
  // Whether a step that was prepared shares memory with one that is being swept in another thread.
  bool shares_memory(const Call& other) const {
    return other.is_swept_ && plan_.shares_memory(other.plan_);
  }
  // Validates the groups from `first_group` on, and the state of all parameters that have one.
  void check(const Containers& containers, int first_group);
  void check_arguments(PyObject* arguments, bool ranges);
  // Lets go of all tensors. That may run code of Python's.
  void end();

 private:
  enum class GatherMode { kWithGradients, kWithStates };
  // A parameter that is gathered: its object and that of its group.
  struct Item {
    PyObject *object, *group;
    const at::Tensor& param;
    const Subject& subject;
    LastAddresses& last;
  };

  void sweep(std::span<Averages* const> averages);
  bool read_scaler_on_cpu();
  void read_options(const Containers& containers);
  bool plan_anew(const Containers& containers);
  bool gather(const Containers& containers, GatherMode mode);
  bool gather_again(const Containers& containers);
  bool gather_groups(const Containers& containers, GatherMode mode);
  bool gather_one(const Containers& containers);
  bool gather_group(PyObject* groups, int index, GatherMode mode);
  [[gnu::always_inline]] inline bool gather_item(const Item& item, const at::Tensor& grad,
                                                 GatherMode mode);
  inline void note_first_step(PyObject* param, const Group& group, Tensors& tensors);
  const at::Tensor* count_of(const at::Tensor& state, bool is_new);
  bool localize(const at::Tensor*& param, const at::Tensor*& grad, PyObject*& spec);
  bool localize_state(Tensors& tensors, PyObject* spec, int state_count);

  const Algorithm& algorithm_;
  SharedByCalls& shared_;
  GroupReader reader_;
  StateReader states_;
  Scaler scaler_;
  int first_group_ = 0;
  int offset_ = 0;  // which group the first of groups_ is
  std::span<const Group> groups_;
  std::vector<std::pair<py::object, py::object>> stateless_;  // (parameter, its group)
  std::vector<py::object> new_;  // the parameters whose state was made for this step, in order
  std::size_t next_new_ = 0;     // which of them may come next
  DTensorReader dtensors_;
  std::vector<c10::TensorImpl*> wrappers_;  // the DTensors among the parameters
  Tensors tensors_;  // of the parameter that is gathered; to clear all of it for each takes long
  Plan plan_;
  bool lets_others_run_ = false;
  bool is_swept_ = false;  // by a thread that lets others run
};

}  // namespace onepass
