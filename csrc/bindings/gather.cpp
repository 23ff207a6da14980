// Call::gather: from the live objects of Python to the plan, which validates each parameter.
#include <algorithm>

#include "call.h"

namespace onepass {
namespace {

constexpr const char* kGroupsChanged =
    "the parameter groups changed while they were read; step again";

}  // namespace

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
