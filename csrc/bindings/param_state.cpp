#include "param_state.h"

#include <bit>

#include "../tensor/codes.h"

namespace onepass {

StateReader::StateReader(const Algorithm& algorithm)
    : algorithm_(algorithm),
      step_key_(interned("step")),
      decay_log_key_(interned("decay_log")),
      row_decay_log_key_(interned("row_decay_log")) {
  for (const State& number : algorithm_.numbers) number_keys_.push_back(interned(number.name));
  for (const State& state : algorithm_.states) {
    state_keys_.push_back(interned(state.name));
    exponent_keys_.push_back(interned((state.name + std::string("_exponent")).c_str()));
  }
}

void StateReader::begin(PyObject* state) {
  next_ = 0;
  lookup_ = StateLookup(state);
  own_.reset();
}

PyObject* StateReader::find(PyObject* param, const Group& group, const Subject& subject) {
  PyObject* const state = own_ ? *own_ : lookup_.find(param);
  if (state == nullptr || lacks(state, group)) return nullptr;
  TORCH_CHECK_TYPE(PyDict_Check(state), "the state of ", subject.parameter(), " must be a dict");
  return state;
}

// Whether a parameter's state is still to be made. Without a step count it is where the first of
// its states is: torch's SGD also keeps states that are empty or None.
bool StateReader::lacks(PyObject* state, const Group& group) const {
  if (!PyDict_Check(state)) return false;
  if (algorithm_.counts_steps) return PyDict_GET_SIZE(state) == 0;
  PyObject* first = get(state, state_keys_[std::countr_zero(group.present)]);
  return first == nullptr || first == Py_None;
}

// Reads a state that holds what nearly every one does, in the order in which it was made.
inline bool StateReader::read_in_order(PyObject* state, unsigned present, Tensors& tensors) const {
  Py_ssize_t position = 0;
  const auto take = [&](PyObject* expected, const at::TensorBase*& tensor) {
    PyObject *key, *value;
    if (PyDict_Next(state, &position, &key, &value) == 0 || key != expected ||
        !THPVariable_Check(value))
      return false;
    tensor = &THPVariable_Unpack(value);
    return true;
  };
  if (algorithm_.counts_steps && !take(step_key_, tensors.step)) return false;
  for (std::size_t k = 0; k < number_keys_.size(); ++k)
    if (!take(number_keys_[k], tensors.numbers[k])) return false;
  for (int count = 0; present != 0; present &= present - 1)
    if (!take(state_keys_[std::countr_zero(present)], tensors.states[count++])) return false;
  return true;
}

void StateReader::read(PyObject* state, const Group& group, const Subject& subject,
                       Tensors& tensors) const {
  const auto usual = algorithm_.counts_steps + number_keys_.size() + group.state_count;
  const bool has_more = PyDict_GET_SIZE(state) > static_cast<Py_ssize_t>(usual);
  if (!has_more && read_in_order(state, group.present, tensors)) return;
  tensors.step = nullptr;
  InOrder in_order(state);
  const auto tensor_under = [&](PyObject* key, const char* role) {
    return &tensor_of(in_order.find(key), subject, role);
  };
  if (algorithm_.counts_steps) tensors.step = tensor_under(step_key_, "step");
  for (std::size_t k = 0; k < number_keys_.size(); ++k)
    tensors.numbers[k] = tensor_under(number_keys_[k], algorithm_.numbers[k].name);
  if (algorithm_.kept_without_gradient != nullptr && get(state, decay_log_key_) != nullptr)
    tensors.decay_log = {tensor_under(decay_log_key_, "decay_log"),
                         tensor_under(row_decay_log_key_, "row_decay_log")};
  int count = 0;
  for (unsigned present = group.present; present != 0; present &= present - 1, ++count) {
    const int k = std::countr_zero(present);
    tensors.states[count] = tensor_under(state_keys_[k], algorithm_.states[k].name);
    tensors.exponents[count] = nullptr;
    if (!has_code_dtype(*tensors.states[count])) continue;
    PyObject* const key = exponent_keys_[k];
    PyObject* const exponents = in_order.find(key);
    if (exponents == nullptr) continue;
    tensors.exponents[count] = &tensor_of(exponents, subject, PyUnicode_AsUTF8(key));
    tensors.has_codes = true;
  }
}

void StateReader::add_logs(const std::deque<NewDecayLog>& logs, PyObject* groups, PyObject* state,
                           NewEntries& entries) const {
  // The states are all found before the first object is made: that may run code of Python's, which
  // changes what was planned.
  std::vector<py::object> owners;
  StateLookup lookup(state);
  for (const NewDecayLog& log : logs) {
    const auto find = [&] {
      PyObject* const params = params_of(PyList_GET_ITEM(groups, log.group), log.group);
      return lookup.find(PyList_GET_ITEM(params, log.index));
    };
    owners.push_back(py::reinterpret_borrow<py::object>(own_ ? *own_ : find()));
  }
  const auto key = [](PyObject* name) { return py::reinterpret_borrow<py::object>(name); };
  for (std::size_t k = 0; k < logs.size(); ++k) {
    entries.insert(owners[k], key(decay_log_key_), py::cast(logs[k].sum));
    entries.insert(owners[k], key(row_decay_log_key_), py::cast(logs[k].at_row));
  }
}

}  // namespace onepass
