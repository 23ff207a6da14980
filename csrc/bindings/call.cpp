#include "call.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "../launch/device.h"
#include "../launch/launcher.h"

namespace onepass {
namespace {

void check_scale(double scale) {
  TORCH_CHECK_VALUE(scale > 0.0 && std::isfinite(scale), "Invalid grad_scale: ", scale,
                    " (it must be positive and finite)");
}

constexpr const char* kGroupsChanged =
    "the parameter groups changed while they were read; step again";

void check_unchanged(bool is_unchanged) {
  TORCH_CHECK(is_unchanged, "gradients or state changed while their step was prepared, so it was ",
              "not taken; step again");
}

}  // namespace

Call::Call(const Algorithm& algorithm, SharedByCalls& shared)
    : algorithm_(algorithm), shared_(shared), reader_(algorithm), states_(algorithm) {}

void Call::end() {
  is_swept_ = false;
  plan_.clear();
  wrappers_.clear();
  dtensors_.end();
  reader_.let_go();
  groups_ = {};
  scaler_ = {};
  stateless_.clear();
  new_.clear();
}

bool Call::read_scaler(const py::object& grad_scale, const py::object& found_inf) {
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
bool Call::read_scaler_on_cpu() {
  if (scaler_.found_inf.defined() && scaler_.found_inf.item().toDouble() != 0.0) return false;
  if (scaler_.device_grad_scale.defined()) {
    scaler_.grad_scale = scaler_.device_grad_scale.item().toDouble();
    check_scale(scaler_.grad_scale);
  }
  scaler_.device_grad_scale.reset();
  return true;
}

bool Call::settle_scaler(const Containers& containers) {
  const bool waits = scaler_.found_inf.defined() || scaler_.device_grad_scale.defined();
  if (!waits || !plan_.steps_on_cpu()) return true;
  if (!read_scaler_on_cpu()) return false;
  check_unchanged(plan_anew(containers));
  return true;
}

// All options are read before the first tensor is borrowed, and all state that is missing is made:
// both may run code of Python's, in which anything may be let go of or change. So the plan that is
// carried out is made after them, in one go.
bool Call::prepare(const Containers& containers, const py::function& new_state, NewEntries& made) {
  new_.clear();
  read_options(containers);
  if (!gather_again(containers)) return false;
  for (const auto& [param, group] : std::exchange(stateless_, {})) {
    made.insert(containers.state, param, new_state(param, group));
    new_.push_back(param);
  }
  if (!new_.empty() && !plan_anew(containers)) return false;
  if (!plan_.new_decay_logs().empty()) {
    states_.add_logs(plan_.new_decay_logs(), containers.groups, containers.state.ptr(), made);
    check_unchanged(plan_anew(containers));
    check_unchanged(plan_.new_decay_logs().empty());
  }
  return true;
}

// Gathers until no two meshes are left to compare.
bool Call::gather_again(const Containers& containers) {
  while (!gather(containers, GatherMode::kWithGradients))
    if (!dtensors_.compare_meshes()) return false;
  return true;
}

// Plans all that the step needs. Returns false where Python has to look.
bool Call::plan_anew(const Containers& containers) {
  if (!gather_again(containers)) return false;
  check_unchanged(stateless_.empty());
  return true;
}

void Call::read_options(const Containers& containers) {
  const auto& [groups, state, param] = containers;
  first_group_ = 0;
  offset_ = param == nullptr ? 0 : shared_.places.find(groups, param).group;
  groups_ = param == nullptr ? reader_.read(groups, 0) : reader_.read_one(groups, offset_);
  TORCH_CHECK(param == nullptr || !groups_.front().needs_grad_norm(), "step_one() cannot step a ",
              "single parameter of a group with max_grad_norm or skip_nonfinite, which need the ",
              "gradients of all parameters; call step()");
}

void Call::check(const Containers& containers, int first_group) {
  offset_ = 0;
  first_group_ = first_group;
  groups_ = reader_.read(containers.groups, first_group_);
  gather(containers, GatherMode::kWithStates);
}

void Call::check_arguments(PyObject* arguments, bool ranges) {
  reader_.check_arguments(arguments, ranges);
}

bool Call::stage(const Containers& containers, std::span<Averages* const> averages) {
  plan_.stage();
  if (!plan_.measure()) return false;
  lets_others_run_ = plan_.lets_others_run();
  for (Averages* const one : averages) {
    plan_.lead(one->plan());
    lets_others_run_ |= one->plan().lets_others_run();
  }
  if (lets_others_run_) {
    plan_.hold();
    for (Averages* const one : averages) one->plan().hold();
  }
  reader_.raise_reference_rates(containers.groups);
  return true;
}

void Call::take(std::span<Averages* const> averages) {
  plan_.commit();
  for (Averages* const one : averages) one->plan().commit();
  for (c10::TensorImpl* const wrapper : wrappers_) wrapper->bump_version();
  if (!lets_others_run_) return sweep(averages);
  is_swept_ = true;
  const py::gil_scoped_release others_may_run;
  sweep(averages);
}

void Call::sweep(std::span<Averages* const> averages) {
  plan_.sweep();
  for (Averages* const one : averages) one->plan().sweep();
}

bool Call::gather(const Containers& containers, GatherMode mode) {
  plan_.begin(groups_, scaler_, offset_);
  stateless_.clear();
  next_new_ = 0;
  dtensors_.begin();
  wrappers_.clear();
  const bool is_all =
      containers.param != nullptr ? gather_one(containers) : gather_groups(containers, mode);
  if (is_all && stateless_.empty()) plan_.close();
  return is_all;
}

bool Call::gather_groups(const Containers& containers, GatherMode mode) {
  PyObject* const groups = containers.groups;
  TORCH_CHECK(PyList_GET_SIZE(groups) == static_cast<Py_ssize_t>(groups_.size()), kGroupsChanged);
  states_.begin(containers.state.ptr());
  for (std::size_t i = first_group_; i < groups_.size(); ++i)
    if (!gather_group(groups, static_cast<int>(i), mode)) return false;
  return true;
}

// Marks a parameter's first step, and gives it a count where its state has none.
inline void Call::note_first_step(PyObject* param, const Group& group, Tensors& tensors) {
  const auto found = std::find_if(new_.begin() + next_new_, new_.end(),
                                  [param](const py::object& one) { return one.ptr() == param; });
  tensors.is_new = found != new_.end();
  if (tensors.is_new) next_new_ = found - new_.begin() + 1;
  if (tensors.step == nullptr && group.state_count > 0 &&
      (scaler_.found_inf.defined() || !shared_.counts.empty()))
    tensors.step = count_of(at::Tensor(*tensors.states[0]), tensors.is_new);
}

const at::Tensor* Call::count_of(const at::Tensor& state, bool is_new) {
  if (const at::Tensor* const count = shared_.counts.find(state)) return count;
  return is_new && scaler_.found_inf.defined() ? shared_.counts.make(state) : nullptr;
}

// Puts what this process holds of DTensors in their places. What cannot be read so, or is placed in
// two ways, is left to Python.
bool Call::localize(const at::Tensor*& param, const at::Tensor*& grad, PyObject*& spec) {
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

bool Call::localize_state(Tensors& tensors, PyObject* spec, int state_count) {
  const auto localize = [&](const at::TensorBase*& tensor) {
    if (tensor == nullptr || !needs_dispatcher(*tensor)) return true;
    const LocalTensor local = dtensors_.local_of(static_cast<const at::Tensor&>(*tensor));
    if (local.tensor == nullptr || !dtensors_.are_alike(spec, local.spec)) return false;
    tensor = local.tensor;
    return true;
  };
  for (int k = 0; k < state_count; ++k) {
    if (!localize(tensors.states[k])) return false;
    if (tensors.has_codes && !localize(tensors.exponents[k])) return false;
  }
  const auto is_plain = [](const auto* n) { return n == nullptr || !needs_dispatcher(*n); };
  return is_plain(tensors.step) && std::ranges::all_of(tensors.numbers, is_plain);
}

bool Call::gather_group(PyObject* groups, int index, GatherMode mode) {
  PyObject* const group = PyList_GET_ITEM(groups, index);
  PyObject* const params = params_of(group, index);
  const ParameterNames names(groups);
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params); ++i) {
    PyObject* const object = PyList_GET_ITEM(params, i);
    const Subject subject{names, index, static_cast<int>(i)};
    LastAddresses& last = states_.next();
    const at::Tensor& param = tensor_of(object, subject, subject.role);
    const at::Tensor& grad = gradient_of(param);
    if (mode == GatherMode::kWithGradients && !grad.defined()) {
      states_.skip(object);
      continue;
    }
    if (mode == GatherMode::kWithStates) {
      check_device(param, subject);
      if (!param.requires_grad() && !grad.defined()) continue;  // frozen: torch takes any kind
    }
    if (!gather_item({object, group, param, subject, last}, grad, mode)) return false;
  }
  return true;
}

bool Call::gather_one(const Containers& containers) {
  const auto& [groups, state, object] = containers;
  PyObject* const own =
      get(state.ptr(), object);  // Tensor.__hash__ is Python code: the last to run
  const ParamPlace& place = shared_.places.find(groups, object);
  TORCH_CHECK(place.group == offset_, kGroupsChanged);
  const ParameterNames names(groups, offset_);
  const Subject subject{names, 0, place.index};
  const at::Tensor& param = tensor_of(object, subject, subject.role);
  const at::Tensor& grad = gradient_of(param);
  TORCH_CHECK(grad.defined(), subject.parameter(), " has no gradient",
              param.requires_grad() ? "; step it after backward() and before zero_grad()"
                                    : " and requires none; leave it out or unfreeze it");
  states_.begin_one(own);
  LastAddresses unused;
  PyObject* const group = PyList_GET_ITEM(groups, offset_);
  return gather_item({object, group, param, subject, unused}, grad, GatherMode::kWithGradients);
}

// Adds a parameter to the plan, which validates it, or to those that lack a state.
inline bool Call::gather_item(const Item& item, const at::Tensor& grad, GatherMode mode) {
  const auto& [object, owner, param, subject, last] = item;
  const Group& group = groups_[subject.group];
  const at::Tensor *local_param = &param, *local_grad = &grad;
  PyObject* spec = nullptr;
  if (needs_dispatcher(param) || (grad.defined() && needs_dispatcher(grad))) {
    if (mode == GatherMode::kWithStates) return true;
    if (!localize(local_param, local_grad, spec)) return false;
    wrappers_.push_back(param.unsafeGetTensorImpl());
  }
  const bool needs_state = algorithm_.counts_steps || group.present != 0;
  if (mode == GatherMode::kWithStates && !needs_state) return true;
  PyObject* const state = needs_state ? states_.find(object, group, subject) : nullptr;
  if (needs_state && state == nullptr) {
    if (mode == GatherMode::kWithGradients)
      stateless_.emplace_back(py::reinterpret_borrow<py::object>(object),
                              py::reinterpret_borrow<py::object>(owner));
    return true;
  }
  Tensors& tensors = tensors_;
  tensors.step = nullptr;
  tensors.decay_log = {};
  tensors.has_codes = false;
  if (needs_state) states_.read(state, group, subject, tensors);
  tensors.param = local_param;
  tensors.grad = mode == GatherMode::kWithGradients ? local_grad : nullptr;
  if (spec != nullptr && !localize_state(tensors, spec, group.state_count)) return false;
  note_first_step(object, group, tensors);
  plan_.add(tensors, subject);
  last.note(object, state, &grad, tensors, group.state_count);
  return true;
}

}  // namespace onepass
