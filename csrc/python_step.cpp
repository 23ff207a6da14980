#include "python_step.h"

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include <bit>
#include <cmath>

namespace onepass {
namespace {

[[gnu::noinline]] void reject_tensor(PyObject* object, const Subject& subject) {
  TORCH_CHECK(object != nullptr, subject.text(), " is missing from the optimizer's state; delete ",
              "the parameter's state to start it anew");
  TORCH_CHECK(false, subject.text(), " must be a tensor, got ", Py_TYPE(object)->tp_name);
}

inline const at::Tensor& tensor_of(PyObject* object, const Subject& subject, const char* role) {
  if (object == nullptr || !THPVariable_Check(object)) reject_tensor(object, subject.about(role));
  return THPVariable_Unpack(object);
}

// The gradient of a leaf, read without the calls that Tensor::grad() makes.
const at::Tensor& gradient_of(const at::Tensor& param) {
  static const at::Tensor none;
  const auto* meta =
      static_cast<torch::autograd::AutogradMeta*>(param.unsafeGetTensorImpl()->autograd_meta());
  return meta == nullptr ? none : meta->grad_;
}

// One of the two numbers under a key such as betas.
py::object item_of_pair(const py::object& pair, const HyperInfo& hyper, int group) {
  const Py_ssize_t size = PySequence_Check(pair.ptr()) == 1 ? PySequence_Size(pair.ptr()) : -1;
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  TORCH_CHECK_VALUE(size == 2, hyper.key, " must be two numbers, got ", std::string(py::repr(pair)),
                    " (parameter group ", group, ")");
  auto item = py::reinterpret_steal<py::object>(PySequence_GetItem(pair.ptr(), hyper.index));
  if (!item) throw py::error_already_set();
  return item;
}

}  // namespace

bool dispatch_mode_is_active() {
  return c10::impl::TorchDispatchModeTLS::any_modes_set() ||
         c10::impl::tls_local_dispatch_key_set().included_.has(
             c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

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
    owner_.stateless_.clear();
    owner_.busy_ = false;
  }

 private:
  PythonStep& owner_;
};

PythonStep::PythonStep(const std::string& algorithm_name)
    : algorithm_(algorithm(algorithm_name)), step_key_(interned("step")) {
  for (const HyperInfo& hyper : algorithm_.hypers) hyper_keys_.push_back(interned(hyper.key));
  for (const State& state : algorithm_.states) {
    state_keys_.push_back(interned(state.name));
    option_keys_.push_back(state.only_if == nullptr ? nullptr : interned(state.only_if));
  }
}

bool PythonStep::step(const py::list& groups, const py::dict& state, const py::function& new_state,
                      const py::object& grad_scale, const py::object& found_inf) {
  const Session session(*this);
  if (optional_number_of(found_inf.ptr(), {"found_inf", -1, -1}).value_or(0.0) != 0.0) return true;
  const std::optional<double> scale = optional_number_of(grad_scale.ptr(), {"grad_scale", -1, -1});
  TORCH_CHECK_VALUE(!scale || (*scale > 0.0 && std::isfinite(*scale)),
                    "Invalid grad_scale: ", scale.value_or(0.0),
                    " (it must be positive and finite)");
  grad_scale_ = scale.value_or(0.0);
  if (!prepare(groups.ptr(), state.ptr(), new_state)) return false;
  plan_.commit();
  if (plan_.elements() <= kReleaseThreshold) {
    plan_.sweep();
  } else {
    plan_.hold();
    const py::gil_scoped_release others_may_run;
    plan_.sweep();
  }
  return true;
}

bool PythonStep::rehearse(const py::list& groups, const py::dict& state,
                          const py::function& new_state) {
  const Session session(*this);
  grad_scale_ = 0.0;
  return prepare(groups.ptr(), state.ptr(), new_state);
}

// Gathers and validates everything. States are made on the way, and kept if nothing is refused.
bool PythonStep::prepare(PyObject* groups, PyObject* state, const py::function& new_state) {
  first_group_ = 0;
  read_groups(groups);
  if (!gather(groups, state, Look::kAtGradients)) return false;
  NewStates new_states(state);
  if (!stateless_.empty()) {
    for (const auto& [param, group] : stateless_) new_states.insert(param, new_state(param, group));
    if (!gather(groups, state, Look::kAtGradients)) return false;
  }
  plan_.validate(ParameterNames(groups));
  new_states.keep();
  return true;
}

void PythonStep::check(const py::list& groups, const py::dict& state, int first_group) {
  const Session session(*this);
  grad_scale_ = 0.0;
  first_group_ = first_group;
  read_groups(groups.ptr());
  gather(groups.ptr(), state.ptr(), Look::kAtStates);
  plan_.validate(ParameterNames(groups.ptr()));
}

// All options are read before the first tensor is borrowed: reading them may run Python code, in
// which anything may be let go of or change.
void PythonStep::read_groups(PyObject* groups) {
  groups_.clear();
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(groups); ++i) {
    const auto group = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(groups, i));
    groups_.push_back(i < first_group_ ? Group{.algorithm = &algorithm_}
                                       : read_group(group.ptr(), static_cast<int>(i)));
  }
}

Group PythonStep::read_group(PyObject* group, int index) const {
  static PyObject* const maximize_key = interned("maximize");
  const auto is_set = [group](PyObject* key) {
    PyObject* value = get(group, key);
    return value != nullptr && is_true(value);
  };
  TORCH_CHECK_TYPE(PyDict_Check(group), "parameter group ", index, " must be a dict");
  Group read{.algorithm = &algorithm_, .maximize = is_set(maximize_key)};
  for (std::size_t k = 0; k < hyper_keys_.size(); ++k) read.hypers[k] = read_hyper(group, k, index);
  for (std::size_t k = 0; k < option_keys_.size(); ++k)
    if (option_keys_[k] == nullptr || is_set(option_keys_[k])) read.add_state(k);
  return read;
}

double PythonStep::read_hyper(PyObject* group, std::size_t which, int index) const {
  const HyperInfo& hyper = algorithm_.hypers[which];
  PyObject* value = get(group, hyper_keys_[which]);
  if (value == nullptr && hyper.optional) return 0.0;
  TORCH_CHECK(value != nullptr, "parameter group ", index, " has no '", hyper.key, "'; set it");
  auto item = py::reinterpret_borrow<py::object>(value);
  if (hyper.index >= 0) item = item_of_pair(item, hyper, index);
  if (hyper.range == Range::kFlag) return is_true(item.ptr()) ? 1.0 : 0.0;
  const OptionName name{hyper.key, hyper.index, index};
  const double number = number_of(item.ptr(), name);
  if (!in_range(hyper, number)) {
    const bool is_tensor = THPVariable_Check(item.ptr());
    reject(hyper, is_tensor ? py::str(py::float_(number)) : py::str(item), name.where());
  }
  return number;
}

bool PythonStep::gather(PyObject* groups, PyObject* state, Look look) {
  plan_.begin(grad_scale_);
  stateless_.clear();
  TORCH_CHECK(PyList_GET_SIZE(groups) == static_cast<Py_ssize_t>(groups_.size()),
              "the parameter groups changed while they were read; step again");
  StateLookup states(state);
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    plan_.add_group(groups_[i]);
    if (static_cast<int>(i) < first_group_) continue;
    if (!gather_group(groups, static_cast<int>(i), states, look)) return false;
  }
  return true;
}

bool PythonStep::gather_group(PyObject* groups, int index, StateLookup& states, Look look) {
  static PyObject* const params_key = interned("params");
  PyObject* group = PyList_GET_ITEM(groups, index);
  TORCH_CHECK_TYPE(PyDict_Check(group), "parameter group ", index, " must be a dict");
  PyObject* params = get(group, params_key);
  TORCH_CHECK_TYPE(params != nullptr && PyList_Check(params), "'params' of parameter group ", index,
                   " must be a list");
  const ParameterNames names(groups);
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params); ++i) {
    PyObject* object = PyList_GET_ITEM(params, i);
    const Subject subject{names, index, static_cast<int>(i)};
    const at::Tensor& param = tensor_of(object, subject, subject.role);
    const at::Tensor& grad = gradient_of(param);
    if (look == Look::kAtGradients && !grad.defined()) {
      states.skip(object);
      continue;
    }
    if (look == Look::kAtStates) check_device(param, subject);
    if (needs_dispatcher(param) || (grad.defined() && needs_dispatcher(grad))) {
      if (look == Look::kAtGradients) return false;
      continue;
    }
    PyObject* state = states.find(object);
    if (state != nullptr && (!PyDict_Check(state) || PyDict_GET_SIZE(state) > 0)) {
      add_parameter(param, state, subject, look);
    } else if (look == Look::kAtGradients) {
      stateless_.emplace_back(py::reinterpret_borrow<py::object>(object),
                              py::reinterpret_borrow<py::object>(group));
    }
  }
  return true;
}

void PythonStep::add_parameter(const at::Tensor& param, PyObject* state, const Subject& subject,
                               Look look) {
  TORCH_CHECK_TYPE(PyDict_Check(state), "the state of ", subject.parameter(), " must be a dict");
  InOrder in_order(state);
  const auto tensor_under = [&](PyObject* key, const char* role) {
    PyObject* value = in_order.take(key);
    return &tensor_of(value != nullptr ? value : get(state, key), subject, role);
  };
  Tensors& tensors = plan_.add(subject.index);
  tensors.param = &param;
  if (look == Look::kAtGradients) tensors.grad = &gradient_of(param);
  tensors.step = tensor_under(step_key_, "step");
  int count = 0;
  for (unsigned present = groups_[subject.group].present; present != 0; present &= present - 1) {
    const int k = std::countr_zero(present);
    tensors.states[count++] = tensor_under(state_keys_[k], algorithm_.states[k].name);
  }
}

}  // namespace onepass
