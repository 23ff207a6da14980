#include "python_options.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "cuda/place.h"
#include "cuda/step.h"

namespace onepass {
namespace {

// One of the numbers under a key such as betas.
py::object item_of(const py::object& tuple, const HyperInfo& hyper, int group) {
  const bool is_text = PyUnicode_Check(tuple.ptr()) || PyBytes_Check(tuple.ptr());
  const bool has_items = !is_text && PySequence_Check(tuple.ptr()) == 1;
  const Py_ssize_t size = has_items ? PySequence_Size(tuple.ptr()) : -1;
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  TORCH_CHECK_VALUE(size == hyper.count, hyper.key, " must be ", hyper.count, " numbers, got ",
                    shown(tuple.ptr()), " (", OptionName{hyper.key, -1, group}.where(), ")");
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

// Whether an object will always be read as the same number or numbers.
bool is_constant(PyObject* object) {
  if (PyTuple_CheckExact(object)) {
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(object); ++k)
      if (!PyFloat_CheckExact(PyTuple_GET_ITEM(object, k))) return false;
    return true;
  }
  return PyFloat_CheckExact(object) || PyLong_CheckExact(object) || PyBool_Check(object) ||
         object == Py_None;
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

// NumPy's scalars are floats where they are float64.
Precision precision_of(PyObject* number) {
  const bool is_double = THPVariable_Check(number)
                             ? THPVariable_Unpack(number).scalar_type() == at::kDouble
                             : PyFloat_Check(number);
  return is_double ? Precision::kDouble : Precision::kSingle;
}

void check_range(double number, const py::object& item, const HyperInfo& hyper,
                 const OptionName& name) {
  if (hyper.allows(number)) return;
  const bool is_tensor = THPVariable_Check(item.ptr());
  reject(hyper, is_tensor ? py::str(py::float_(number)) : py::str(item), name.where());
}

// Any number, checked; reading it may run code of Python's.
double read_hyper(const py::object& item, const HyperInfo& hyper, int group) {
  if (hyper.range == Range::kFlag) return is_true(item.ptr()) ? 1.0 : 0.0;
  const OptionName name{hyper.key, hyper.index, group};
  const double number = hyper.counted(number_of(item.ptr(), name), precision_of(item.ptr()));
  check_range(number, item, hyper, name);
  return number;
}

bool is_on_device(const py::object& item) {
  return THPVariable_Check(item.ptr()) && cuda::number_on_device(THPVariable_Unpack(item.ptr()));
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
  for (const HyperInfo& hyper : algorithm_.hypers) {
    const std::string_view name = hyper.name;
    const int place = static_cast<int>(slots_.size());
    if (name == "lr") lr_ = place;
    if (name == "reference_lr") reference_lr_ = place;
    if (name == "decouple_lr") decouple_lr_ = place;
    slots_.push_back({hyper, position(hyper.key)});
  }
  for (const State& state : algorithm_.states)
    option_keys_.push_back(state.only_if == nullptr ? -1
                                                    : static_cast<int>(position(state.only_if)));
  values_.resize(keys_.size());
}

// Finds the values of all keys by the keys' identity.
void GroupReader::look(PyObject* group) {
  if (positions_.empty()) return look_everywhere(group);
  PyObject* key = nullptr;
  for (std::size_t k = 0; k < keys_.size(); ++k) {
    Py_ssize_t position = positions_[k];
    values_[k] = nullptr;
    if (position < 0) continue;
    if (PyDict_Next(group, &position, &key, &values_[k]) == 0 || key != keys_[k])
      return look_everywhere(group);
  }
}

void GroupReader::look_everywhere(PyObject* group) {
  std::ranges::fill(values_, nullptr);
  positions_.assign(keys_.size(), -1);
  PyObject *key, *value;
  Py_ssize_t position = 0;
  for (Py_ssize_t before = 0; PyDict_Next(group, &position, &key, &value) != 0; before = position) {
    const std::size_t k = std::ranges::find(keys_, key) - keys_.begin();
    if (k == keys_.size()) continue;
    values_[k] = value;
    positions_[k] = before;
  }
}

// The value of a key, or null; the walk overlooks keys that are equal to ours but other objects.
PyObject* GroupReader::find(PyObject* group, std::size_t key) const {
  return values_[key] != nullptr ? values_[key] : get(group, keys_[key]);
}

Group GroupReader::read_group(PyObject* group, int index, Known& known) {
  TORCH_CHECK_TYPE(PyDict_Check(group), "parameter group ", index, " must be a dict");
  look(group);
  remember(group, known);  // first: reading what can change may run code that changes more
  Group read{.algorithm = &algorithm_, .maximize = is_set(group, kMaximize)};
  for (std::size_t k = 0; k < slots_.size(); ++k) {
    const Slot& slot = slots_[k];
    if (read_plain(values_[slot.key], slot.hyper, read.hypers[k])) continue;
    PyObject* const value = known.is_constant ? known.of(slot.key) : find(group, slot.key);
    if (value == nullptr && slot.hyper.optional) continue;
    const py::object item = option_of(value, slot.hyper, index);
    const bool on_device = is_on_device(item);
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

void GroupReader::remember(PyObject* group, Known& known) {
  known.version = version_of(group);
  known.values.clear();
  known.is_constant = false;
  for (std::size_t k = 0; k < keys_.size(); ++k) {
    PyObject* const value = find(group, k);
    if (value != nullptr && !is_constant(value)) return known.values.clear();
    known.values.push_back(py::reinterpret_borrow<py::object>(value));
  }
  known.is_constant = true;
}

// Whether a group holds the very objects that it was read from last, and these cannot change.
bool GroupReader::is_unchanged(PyObject* group, std::size_t index) {
  Known& known = known_[index];
  if (!known.is_constant || !PyDict_Check(group)) return false;
  const std::uint64_t version = version_of(group);
  if (version != 0 && version == known.version) return true;
  PyObject *key, *value;
  for (std::size_t k = 0; k < keys_.size(); ++k) {
    if (Py_ssize_t position = positions_[k]; position < 0) {
      value = get(group, keys_[k]);
    } else if (PyDict_Next(group, &position, &key, &value) == 0 || key != keys_[k]) {
      return false;
    }
    if (value != known.values[k].ptr()) return false;
  }
  known.version = version;
  return true;
}

// Reads a group, unless the one that was read there before is the same to a step.
inline void GroupReader::read_into(std::size_t place, PyObject* groups, int index) {
  const auto group = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(groups, index));
  if (is_unchanged(group.ptr(), place)) return;
  Known known = std::exchange(known_[place], {});
  groups_[place] = {.algorithm = &algorithm_};
  groups_[place] = read_group(group.ptr(), index, known);
  known_[place] = std::move(known);
}

std::span<const Group> GroupReader::read(PyObject* groups, int first) {
  int count = 0;
  offset_ = 0;
  for (; count < PyList_GET_SIZE(groups); ++count) {
    if (static_cast<std::size_t>(count) == groups_.size()) {
      groups_.emplace_back();
      known_.emplace_back();
    }
    if (count < first) {
      known_[count] = {};
      groups_[count] = {.algorithm = &algorithm_};
    } else {
      read_into(count, groups, count);
    }
  }
  groups_.resize(count);
  known_.resize(count);
  return groups_;
}

std::span<const Group> GroupReader::read_one(PyObject* groups, int index) {
  groups_.resize(1);
  known_.resize(1);
  offset_ = index;
  read_into(0, groups, index);
  return groups_;
}

void GroupReader::check_arguments(PyObject* arguments, bool ranges) {
  for (const auto& [hyper, key] : slots_) {
    PyObject* const value = get(arguments, keys_[key]);
    if (value == nullptr || hyper.range == Range::kFlag) continue;
    const OptionName name{hyper.key, hyper.index, OptionName::kArgument};
    const py::object item = option_of(value, hyper, name.group);
    if (is_on_device(item)) continue;  // its range is not waited for
    const double number = number_of(item.ptr(), name);
    if (ranges) check_range(number, item, hyper, name);
  }
}

bool GroupReader::knows_on_host(const Group& group, int hyper) const {
  const auto is_it = [hyper](const auto& number) { return number.first == hyper; };
  return std::ranges::none_of(group.on_device, is_it);
}

void GroupReader::raise_reference_rates(PyObject* groups) {
  if (decouple_lr_ < 0) return;
  for (std::size_t k = 0; k < groups_.size(); ++k) {
    const Group& group = groups_[k];
    const double lr = group.hypers[lr_];
    if (group.hypers[decouple_lr_] == 0.0 || lr <= group.hypers[reference_lr_]) continue;
    if (!knows_on_host(group, lr_) || !knows_on_host(group, reference_lr_)) continue;
    PyObject* const dict = PyList_GET_ITEM(groups, offset_ + static_cast<Py_ssize_t>(k));
    PyObject* const key = keys_[slots_[reference_lr_].key];
    replaced_.push_back(py::reinterpret_borrow<py::object>(get(dict, key)));
    if (PyDict_SetItem(dict, key, py::float_(lr).ptr()) != 0) throw py::error_already_set();
  }
}

void GroupReader::let_go() {
  for (Group& group : groups_) group.on_device.clear();
  replaced_.clear();
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
