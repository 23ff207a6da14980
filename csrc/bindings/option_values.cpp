#include "option_values.h"

#include "../launch/device.h"

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

// NumPy's scalars are floats where they are float64.
Precision precision_of(PyObject* number) {
  const bool is_double = THPVariable_Check(number)
                             ? THPVariable_Unpack(number).scalar_type() == at::kDouble
                             : PyFloat_Check(number);
  return is_double ? Precision::kDouble : Precision::kSingle;
}

}  // namespace

bool is_constant(PyObject* object) {
  if (PyTuple_CheckExact(object)) {
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(object); ++k)
      if (!PyFloat_CheckExact(PyTuple_GET_ITEM(object, k))) return false;
    return true;
  }
  return PyFloat_CheckExact(object) || PyLong_CheckExact(object) || PyBool_Check(object) ||
         object == Py_None;
}

bool read_plain(PyObject* object, const HyperInfo& hyper, double& number) {
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

py::object option_of(PyObject* value, const HyperInfo& hyper, int group) {
  TORCH_CHECK(value != nullptr, "parameter group ", group, " has no '", hyper.key, "'; set it");
  auto item = py::reinterpret_borrow<py::object>(value);
  return hyper.index >= 0 ? item_of(item, hyper, group) : item;
}

void reject(const HyperInfo& hyper, const std::string& shown, const std::string& where) {
  TORCH_CHECK_VALUE(false, "Invalid ", hyper.label, ": ", shown, " (", where, "; ", hyper.name,
                    " must be ", hyper.interval.words, ")");
}

void check_range(double number, const py::object& item, const HyperInfo& hyper,
                 const OptionName& name) {
  if (hyper.allows(number)) return;
  const bool is_tensor = THPVariable_Check(item.ptr());
  reject(hyper, is_tensor ? py::str(py::float_(number)) : py::str(item), name.where());
}

double read_hyper(const py::object& item, const HyperInfo& hyper, int group) {
  if (hyper.range == Range::kFlag) return is_true(item.ptr()) ? 1.0 : 0.0;
  const OptionName name{hyper.key, hyper.index, group};
  const double number = hyper.counted(number_of(item.ptr(), name), precision_of(item.ptr()));
  check_range(number, item, hyper, name);
  return number;
}

bool is_set(PyObject* value) {
  if (value == nullptr || value == Py_False || value == Py_None) return false;
  if (value == Py_True) return true;
  if (PyFloat_CheckExact(value)) return PyFloat_AS_DOUBLE(value) != 0.0;
  // What it is now only the device knows.
  if (THPVariable_Check(value) && cuda::number_on_device(THPVariable_Unpack(value))) return true;
  return is_true(value);
}

bool is_stochastic(PyObject* value, int group) {
  if (value == nullptr || value == Py_None) return false;
  TORCH_CHECK_VALUE(
      PyUnicode_Check(value) && PyUnicode_CompareWithASCIIString(value, "stochastic") == 0,
      "Invalid state_rounding value: ", std::string(py::repr(value)), " (parameter group ", group,
      "; it must be None or 'stochastic')");
  return true;
}

bool is_on_device(const py::object& item) {
  return THPVariable_Check(item.ptr()) && cuda::number_on_device(THPVariable_Unpack(item.ptr()));
}

}  // namespace onepass
