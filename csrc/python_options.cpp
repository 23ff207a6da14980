#include "python_options.h"

#include <algorithm>
#include <cmath>

#include "cuda/place.h"
#include "cuda/step.h"

namespace onepass {
namespace {

// One of the numbers under a key such as betas.
py::object item_of(const py::object& tuple, const HyperInfo& hyper, int group) {
  const Py_ssize_t size = PySequence_Check(tuple.ptr()) == 1 ? PySequence_Size(tuple.ptr()) : -1;
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  TORCH_CHECK_VALUE(size == hyper.count, hyper.key, " must be ", hyper.count, " numbers, got ",
                    std::string(py::repr(tuple)), " (parameter group ", group, ")");
  auto item = py::reinterpret_steal<py::object>(PySequence_GetItem(tuple.ptr(), hyper.index));
  if (!item) throw py::error_already_set();
  return item;
}

// Whether an object is a number that can be read without any code of Python's running.
inline bool read_plain(PyObject* object, const HyperInfo& hyper, double& number) {
  if (object == nullptr) return false;
  if (hyper.index >= 0) {
    if (!PyTuple_CheckExact(object) || PyTuple_GET_SIZE(object) != hyper.count) return false;
    object = PyTuple_GET_ITEM(object, hyper.index);
  }
  if (PyFloat_CheckExact(object)) {
    number = PyFloat_AS_DOUBLE(object);
  } else if (PyBool_Check(object)) {
    number = object == Py_True ? 1.0 : 0.0;
  } else {
    return false;
  }
  return hyper.allows(number);
}

// Whether a group has a parameter that is stepped on the CPU.
bool steps_on_cpu(PyObject* group) {
  static PyObject* const params_key = interned("params");
  PyObject* const params = get(group, params_key);
  if (params == nullptr || !PyList_Check(params)) return true;
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(params); ++k) {
    PyObject* const param = PyList_GET_ITEM(params, k);
    if (!THPVariable_Check(param) || !cuda::on_device(THPVariable_Unpack(param))) return true;
  }
  return false;
}

// The option itself, or its item under the key of several.
py::object option_of(PyObject* value, const HyperInfo& hyper, int group) {
  TORCH_CHECK(value != nullptr, "parameter group ", group, " has no '", hyper.key, "'; set it");
  auto item = py::reinterpret_borrow<py::object>(value);
  return hyper.index >= 0 ? item_of(item, hyper, group) : item;
}

// Any number, checked; reading it may run code of Python's.
double read_hyper(const py::object& item, const HyperInfo& hyper, int group) {
  if (hyper.range == Range::kFlag) return is_true(item.ptr()) ? 1.0 : 0.0;
  const OptionName name{hyper.key, hyper.index, group};
  const double number = number_of(item.ptr(), name);
  if (!hyper.allows(number)) {
    const bool is_tensor = THPVariable_Check(item.ptr());
    reject(hyper, is_tensor ? py::str(py::float_(number)) : py::str(item), name.where());
  }
  return number;
}

}  // namespace

GroupReader::GroupReader(const Algorithm& algorithm)
    : algorithm_(algorithm), keys_{interned("maximize")} {
  const auto position = [this](const char* name) {
    PyObject* const key = interned(name);
    const std::size_t found = std::ranges::find(keys_, key) - keys_.begin();
    if (found == keys_.size()) keys_.push_back(key);
    return found;
  };
  for (const HyperInfo& hyper : algorithm_.hypers) slots_.push_back({hyper, position(hyper.key)});
  for (const State& state : algorithm_.states)
    option_keys_.push_back(state.only_if == nullptr ? -1
                                                    : static_cast<int>(position(state.only_if)));
  values_.resize(keys_.size() + 1);
}

// Finds the values of all keys in one walk over the group, by the keys' identity.
void GroupReader::look(PyObject* group) {
  std::ranges::fill(values_, nullptr);
  layout_.resize(PyDict_GET_SIZE(group));
  PyObject *key, *value;
  Py_ssize_t position = 0;
  for (Place& place : layout_) {
    if (PyDict_Next(group, &position, &key, &value) == 0) return;
    if (place.key != key) {  // keys_ live for ever, so that no other key takes their address
      place.key = key;
      place.value = std::ranges::find(keys_, key) - keys_.begin();
    }
    values_[place.value] = value;
  }
}

// The value of a key, or null; the walk overlooks keys that are equal to ours but other objects.
PyObject* GroupReader::find(PyObject* group, std::size_t key) const {
  return values_[key] != nullptr ? values_[key] : get(group, keys_[key]);
}

Group GroupReader::read(PyObject* group, int index) {
  TORCH_CHECK_TYPE(PyDict_Check(group), "parameter group ", index, " must be a dict");
  look(group);
  Group read{.algorithm = &algorithm_, .maximize = is_set(group, kMaximize)};
  for (std::size_t k = 0; k < slots_.size(); ++k) {
    const Slot& slot = slots_[k];
    if (read_plain(values_[slot.key], slot.hyper, read.hypers[k])) continue;
    PyObject* const value = find(group, slot.key);
    if (value == nullptr && slot.hyper.optional) continue;
    const py::object item = option_of(value, slot.hyper, index);
    const bool on_device =
        THPVariable_Check(item.ptr()) && cuda::number_on_device(THPVariable_Unpack(item.ptr()));
    if (on_device) {
      const OptionName name{slot.hyper.key, slot.hyper.index, index};
      const at::Tensor& number = THPVariable_Unpack(item.ptr());
      cuda::check_number_on_device(number, name.text(), " (" + name.where() + ")");
      read.on_device.emplace_back(k, number);
    }
    if (!on_device || steps_on_cpu(group)) read.hypers[k] = read_hyper(item, slot.hyper, index);
    look(group);  // what was borrowed may be gone
  }
  for (std::size_t k = 0; k < option_keys_.size(); ++k)
    if (option_keys_[k] < 0 || is_set(group, option_keys_[k])) read.add_state(k);
  return read;
}

// Whether an option is there and true.
bool GroupReader::is_set(PyObject* group, std::size_t key) {
  PyObject* const value = find(group, key);
  if (value == nullptr || value == Py_False || value == Py_None) return false;
  if (value == Py_True) return true;
  if (PyFloat_CheckExact(value)) return PyFloat_AS_DOUBLE(value) != 0.0;
  // What it is now only the device knows.
  if (THPVariable_Check(value) && cuda::number_on_device(THPVariable_Unpack(value))) return true;
  const bool set = is_true(value);
  look(group);
  return set;
}

}  // namespace onepass
