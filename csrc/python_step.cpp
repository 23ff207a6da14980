#include "python_step.h"

#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <utility>

#include "cuda/place.h"
#include "cuda/step.h"

namespace onepass {
namespace {

void check_scale(double scale) {
  TORCH_CHECK_VALUE(scale > 0.0 && std::isfinite(scale), "Invalid grad_scale: ", scale,
                    " (it must be positive and finite)");
}

// The list of a group's parameters.
PyObject* params_of(PyObject* group, int index) {
  static PyObject* const params_key = interned("params");
  TORCH_CHECK_TYPE(PyDict_Check(group), "parameter group ", index, " must be a dict");
  PyObject* const params = InOrder(group).find(params_key);
  TORCH_CHECK_TYPE(params != nullptr && PyList_Check(params), "'params' of parameter group ", index,
                   " must be a list");
  return params;
}

void check_unchanged(bool is_unchanged) {
  TORCH_CHECK(is_unchanged, "gradients or state changed while their step was prepared, so it was ",
              "not taken; step again");
}

}  // namespace

// The time in which an optimizer is in use by one call. Ends with all tensors let go.
class PythonStep::Session {
 public:
  explicit Session(PythonStep& owner) : owner_(owner) {
    TORCH_CHECK(!owner.busy_, "this optimizer is in the middle of a step in another thread; give ",
                "every thread its own optimizer or take a lock around step()");
    owner.busy_ = true;
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() {
    owner_.plan_.clear();
    owner_.wrappers_.clear();
    owner_.dtensors_.end();
    owner_.reader_.let_go();
    owner_.groups_ = {};
    owner_.scaler_ = {};
    owner_.stateless_.clear();
    owner_.new_.clear();
    owner_.busy_ = false;
  }

 private:
  PythonStep& owner_;
};

PythonStep::PythonStep(const std::string& algorithm_name)
    : algorithm_(algorithm(algorithm_name)), reader_(algorithm_), states_(algorithm_) {}

bool PythonStep::step(const py::list& groups, const py::dict& state, const py::function& new_state,
                      const py::object& grad_scale, const py::object& found_inf) {
  const Session session(*this);
  if (!read_scaler(grad_scale, found_inf)) return true;
  NewEntries made;
  if (!prepare(groups.ptr(), state, new_state, made)) return false;
  if ((scaler_.found_inf.defined() || scaler_.device_grad_scale.defined()) &&
      plan_.steps_on_cpu()) {
    if (!read_scaler_on_cpu()) return true;
    plan_anew(groups.ptr(), state.ptr());
  }
  RECORD_FUNCTION(std::string("onepass::") + algorithm_.name, {});
  plan_.stage();
  reader_.raise_reference_rates(groups.ptr());
  made.keep();
  ++steps_taken_;
  plan_.commit();
  for (c10::TensorImpl* const wrapper : wrappers_) wrapper->bump_version();
  if (!plan_.lets_others_run()) {
    plan_.sweep();
  } else {
    const py::gil_scoped_release others_may_run;
    plan_.sweep();
  }
  return true;
}

// Whether there is a step to take, as far as the host knows.
bool PythonStep::read_scaler(const py::object& grad_scale, const py::object& found_inf) {
  scaler_ = {};
  const auto read = [](const py::object& object, const OptionName& name, at::Tensor& on_device) {
    if (THPVariable_Check(object.ptr()) &&
        cuda::number_on_device(THPVariable_Unpack(object.ptr()))) {
      on_device = THPVariable_Unpack(object.ptr());
      cuda::check_number_on_device(on_device, name.text(), " (" + name.where() + ")");
      return 0.0;
    }
    return optional_number_of(object.ptr(), name).value_or(0.0);
  };
  if (read(found_inf, {"found_inf", -1, OptionName::kScaler}, scaler_.found_inf) != 0.0)
    return false;
  const double scale =
      read(grad_scale, {"grad_scale", -1, OptionName::kScaler}, scaler_.device_grad_scale);
  const bool given = !grad_scale.is_none() && !scaler_.device_grad_scale.defined();
  if (given) check_scale(scale);
  scaler_.grad_scale = scale;
  return true;
}

// For parameters on the CPU, which have to wait for a scaler on a device.
bool PythonStep::read_scaler_on_cpu() {
  if (scaler_.found_inf.defined() && scaler_.found_inf.item().toDouble() != 0.0) return false;
  if (scaler_.device_grad_scale.defined()) {
    scaler_.grad_scale = scaler_.device_grad_scale.item().toDouble();
    check_scale(scaler_.grad_scale);
  }
  scaler_.device_grad_scale.reset();
  return true;
}

const at::Tensor* PythonStep::count_of(const at::Tensor& state, bool is_new) {
  const auto found = counts_.find(state.unsafeGetTensorImpl());
  if (found != counts_.end() && !found->second.state.expired()) return &found->second.steps;
  if (!is_new || !scaler_.found_inf.defined()) return nullptr;
  const c10::InferenceMode outside(false);
  Count count{c10::weak_intrusive_ptr<c10::TensorImpl>(state.getIntrusivePtr()),
              at::zeros({}, state.options().dtype(at::kFloat))};
  return &counts_.insert_or_assign(state.unsafeGetTensorImpl(), std::move(count))
              .first->second.steps;
}

bool PythonStep::skips(const py::object& found_inf) {
  return optional_number_of(found_inf.ptr(), {"found_inf", -1, OptionName::kScaler})
             .value_or(0.0) != 0.0;
}

bool PythonStep::rehearse(const py::list& groups, const py::dict& state,
                          const py::function& new_state) {
  const Session session(*this);
  scaler_ = {};
  NewEntries made;
  const bool is_ready = prepare(groups.ptr(), state, new_state, made);
  made.keep();
  return is_ready;
}

// Plans the step. All options are read before the first tensor is borrowed, and all state that is
// missing is made: both may run code of Python's, in which anything may be let go of or change. So
// the plan that is carried out is made after them, in one go.
bool PythonStep::prepare(PyObject* groups, const py::dict& state, const py::function& new_state,
                         NewEntries& made) {
  first_group_ = 0;
  new_.clear();
  groups_ = reader_.read(groups, first_group_);
  if (!gather(groups, state.ptr(), Look::kAtGradients)) return false;
  if (stateless_.empty()) {
    plan_.validate(ParameterNames(groups));
  } else {
    for (const auto& [param, group] : std::exchange(stateless_, {})) {
      made.insert(state, param, new_state(param, group));
      new_.push_back(param);
    }
    plan_anew(groups, state.ptr());
  }
  if (!plan_.new_decay_logs().empty()) {
    states_.add_logs(plan_.new_decay_logs(), groups, state.ptr(), made);
    plan_anew(groups, state.ptr());
    check_unchanged(plan_.new_decay_logs().empty());
  }
  return true;
}

// Gathers and validates all that the step needs, which must be there.
void PythonStep::plan_anew(PyObject* groups, PyObject* state) {
  check_unchanged(gather(groups, state, Look::kAtGradients) && stateless_.empty());
  plan_.validate(ParameterNames(groups));
}

void PythonStep::check(const py::list& groups, const py::dict& state, int first_group) {
  const Session session(*this);
  scaler_ = {};
  first_group_ = first_group;
  groups_ = reader_.read(groups.ptr(), first_group_);
  gather(groups.ptr(), state.ptr(), Look::kAtStates);
  plan_.validate(ParameterNames(groups.ptr()));
}

void PythonStep::check_arguments(const py::dict& arguments, bool ranges) {
  const Session session(*this);
  reader_.check_arguments(arguments.ptr(), ranges);
}

bool PythonStep::gather(PyObject* groups, PyObject* state, Look look) {
  plan_.begin(groups_, scaler_);
  stateless_.clear();
  next_new_ = 0;
  TORCH_CHECK(PyList_GET_SIZE(groups) == static_cast<Py_ssize_t>(groups_.size()),
              "the parameter groups changed while they were read; step again");
  states_.begin(state);
  dtensors_.begin();
  wrappers_.clear();
  for (std::size_t i = first_group_; i < groups_.size(); ++i)
    if (!gather_group(groups, static_cast<int>(i), look)) return false;
  return true;
}

// Marks a parameter's first step, and gives it a count where its state has none.
inline void PythonStep::note_first_step(PyObject* param, Tensors& tensors) {
  const auto found = std::find_if(new_.begin() + next_new_, new_.end(),
                                  [param](const py::object& one) { return one.ptr() == param; });
  tensors.is_new = found != new_.end();
  if (tensors.is_new) next_new_ = found - new_.begin() + 1;
  if (tensors.step == nullptr && tensors.states[0] != nullptr &&
      (scaler_.found_inf.defined() || !counts_.empty()))
    tensors.step = count_of(at::Tensor(*tensors.states[0]), tensors.is_new);
}

// Puts what this process holds of DTensors in their places. What cannot be read so, or is placed in
// two ways, is left to Python.
bool PythonStep::localize(const at::Tensor*& param, const at::Tensor*& grad, PyObject*& spec) {
  if (scaler_.found_inf.defined()) return false;
  const LocalTensor local = dtensors_.local_of(*param), local_grad = dtensors_.local_of(*grad);
  if (local.tensor == nullptr || local_grad.tensor == nullptr ||
      !dtensors_.are_alike(local.spec, local_grad.spec))
    return false;
  param = local.tensor;
  grad = local_grad.tensor;
  spec = local.spec;
  return true;
}

bool PythonStep::localize_state(Tensors& tensors, PyObject* spec, int state_count) {
  for (int k = 0; k < state_count; ++k) {
    if (!needs_dispatcher(*tensors.states[k])) continue;
    const LocalTensor local =
        dtensors_.local_of(static_cast<const at::Tensor&>(*tensors.states[k]));
    if (local.tensor == nullptr || !dtensors_.are_alike(spec, local.spec)) return false;
    tensors.states[k] = local.tensor;
  }
  const auto is_plain = [](const at::TensorBase* number) {
    return number == nullptr || !needs_dispatcher(*number);
  };
  return is_plain(tensors.step) && std::ranges::all_of(tensors.numbers, is_plain);
}

bool PythonStep::gather_group(PyObject* groups, int index, Look look) {
  PyObject* const group = PyList_GET_ITEM(groups, index);
  PyObject* const params = params_of(group, index);
  const ParameterNames names(groups);
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params); ++i) {
    PyObject* object = PyList_GET_ITEM(params, i);
    const Subject subject{names, index, static_cast<int>(i)};
    StatePlace& place = states_.next();
    const at::Tensor& param = tensor_of(object, subject, subject.role);
    const at::Tensor& grad = gradient_of(param);
    if (look == Look::kAtGradients && !grad.defined()) {
      states_.skip(object);
      continue;
    }
    if (look == Look::kAtStates) {
      check_device(param, subject);
      if (!param.requires_grad() && !grad.defined()) continue;  // frozen: torch takes any kind
    }
    const at::Tensor *local_param = &param, *local_grad = &grad;
    PyObject* spec = nullptr;
    if (needs_dispatcher(param) || (grad.defined() && needs_dispatcher(grad))) {
      if (look == Look::kAtStates) continue;
      if (!localize(local_param, local_grad, spec)) return false;
      wrappers_.push_back(param.unsafeGetTensorImpl());
    }
    const bool needs_state = algorithm_.counts_steps || groups_[index].present != 0;
    if (look == Look::kAtStates && !needs_state) continue;
    if (!needs_state || states_.find(object, groups_[index], subject, place)) {
      place.grad_handle = &grad;
      place.param_header = param.unsafeGetTensorImpl();
      place.grad_header = grad.unsafeGetTensorImpl();
      Tensors& tensors = plan_.add(index, subject.index, needs_state ? place.tensors : Tensors{});
      tensors.param = local_param;
      if (look == Look::kAtGradients) tensors.grad = local_grad;
      if (spec != nullptr && !localize_state(tensors, spec, groups_[index].state_count))
        return false;
      note_first_step(object, tensors);
    } else if (look == Look::kAtGradients) {
      stateless_.emplace_back(py::reinterpret_borrow<py::object>(object),
                              py::reinterpret_borrow<py::object>(group));
    }
  }
  return true;
}

}  // namespace onepass
