#include "pyobject.h"

#include <c10/util/Exception.h>

#include <ranges>

namespace onepass {

PyObject* interned(const char* text) {
  PyObject* string = PyUnicode_InternFromString(text);
  if (string == nullptr) throw py::error_already_set();
  return string;
}

PyObject* get(PyObject* dict, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

bool is_true(PyObject* object) {
  const int truth = PyObject_IsTrue(object);
  if (truth < 0) throw py::error_already_set();
  return truth == 1;
}

PyObject* params_of(PyObject* group, int index) {
  static PyObject* const params_key = interned("params");
  TORCH_CHECK_TYPE(PyDict_Check(group), "parameter group ", index, " must be a dict");
  PyObject* const params = InOrder(group).find(params_key);
  TORCH_CHECK_TYPE(params != nullptr && PyList_Check(params), "'params' of parameter group ", index,
                   " must be a list");
  return params;
}

namespace {

// Reads float tensors of the CPU without an ATen call.
double value_of(const at::Tensor& tensor, const OptionName& name) {
  const bool plain = tensor.device().is_cpu() && tensor.layout() == at::kStrided &&
                     !needs_dispatcher(tensor) && !is_lazy(tensor);
  if (plain) {
    const std::size_t end = (tensor.storage_offset() + 1) * tensor.itemsize();
    TORCH_CHECK_VALUE(end <= tensor.storage().nbytes(), "the memory of Tensor ", name.text(),
                      " was freed or resized (", name.where(), "); set it anew");
    if (tensor.scalar_type() == at::kFloat) return *tensor.const_data_ptr<float>();
    if (tensor.scalar_type() == at::kDouble) return *tensor.const_data_ptr<double>();
  }
  TORCH_CHECK_TYPE(!tensor.is_complex(), name.text(),
                   " must be a real number, got a complex Tensor (", name.where(), ")");
  return tensor.item().toDouble();
}

}  // namespace

std::string OptionName::text() const {
  return index < 0 ? key : std::string(key) + "[" + std::to_string(index) + "]";
}

std::string OptionName::where() const {
  if (group == kScaler) return "set by the gradient scaler";
  if (group == kArgument) return "an argument of the constructor";
  return "parameter group " + std::to_string(group);
}

std::string shown(PyObject* object) {
  constexpr std::size_t kLongest = 80;
  const auto text = py::reinterpret_steal<py::object>(PyObject_ASCII(object));
  if (!text) {
    PyErr_Clear();
    return std::string("a ") + Py_TYPE(object)->tp_name;
  }
  std::string line = text.cast<std::string>();
  return line.size() <= kLongest ? line : line.substr(0, kLongest) + "...";
}

namespace {

// Whether Python would make a number of an object that nobody would call one: of NumPy's strings,
// of complex numbers (with a warning), of arrays with one element.
bool is_disguised(PyObject* object) {
  static PyObject* const dimensions = interned("ndim");
  if (PyFloat_Check(object) || PyLong_Check(object)) return false;
  if (PyUnicode_Check(object) || PyBytes_Check(object) || PyComplex_Check(object)) return true;
  const py::handle value(object);
  if (py::hasattr(value, dimensions) && is_true(py::object(value.attr(dimensions)).ptr()))
    return true;
  const py::module_ numbers = py::module_::import("numbers");
  return py::isinstance(value, numbers.attr("Complex")) &&
         !py::isinstance(value, numbers.attr("Real"));
}

[[noreturn]] void reject_number(PyObject* object, const OptionName& name) {
  TORCH_CHECK_TYPE(false, name.text(), " must be a number, got ", shown(object), ", a ",
                   Py_TYPE(object)->tp_name, " (", name.where(), ")");
}

}  // namespace

double number_of(PyObject* object, const OptionName& name) {
  if (PyFloat_CheckExact(object)) return PyFloat_AS_DOUBLE(object);
  if (THPVariable_Check(object)) {
    const at::Tensor& tensor = THPVariable_Unpack(object);
    TORCH_CHECK_VALUE(tensor.numel() == 1, "Tensor ", name.text(), " must be 1-element, got shape ",
                      tensor.sizes(), " (", name.where(), ")");
    return value_of(tensor, name);
  }
  if (is_disguised(object)) reject_number(object, name);
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred() != nullptr) {
    const bool is_no_number = PyErr_ExceptionMatches(PyExc_TypeError) == 1;
    const bool is_too_large = PyErr_ExceptionMatches(PyExc_OverflowError) == 1;
    if (!is_no_number && !is_too_large) throw py::error_already_set();
    PyErr_Clear();
    TORCH_CHECK_VALUE(!is_too_large, name.text(), " is too large for a number (", name.where(),
                      ")");
    reject_number(object, name);
  }
  return value;
}

std::optional<double> optional_number_of(PyObject* object, const OptionName& name) {
  if (object == Py_None) return std::nullopt;
  return number_of(object, name);
}

void reject_tensor(PyObject* object, const Subject& subject) {
  TORCH_CHECK(object != nullptr, subject.text(), " is missing from the optimizer's state; delete ",
              "the parameter's state to start it anew");
  TORCH_CHECK(false, subject.text(), " must be a tensor, got ", Py_TYPE(object)->tp_name);
}

PyObject* StateLookup::find_anywhere(PyObject* param) {
  if (!indexed_) {
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(state_, &position, &key, &value) != 0) index_.emplace(key, value);
    indexed_ = true;
  }
  const auto found = index_.find(param);
  return found == index_.end() ? nullptr : found->second;
}

std::string ParameterNames::parameter(int group, int index) const {
  group += first_;
  std::string position =
      "parameter " + std::to_string(index) + " of group " + std::to_string(group);
  const auto dict = py::reinterpret_borrow<py::dict>(PyList_GET_ITEM(groups_, group));
  if (!dict.contains("param_names")) return position;
  const auto names = py::reinterpret_borrow<py::sequence>(dict["param_names"]);
  if (static_cast<std::size_t>(index) >= names.size()) return position;
  return "'" + std::string(py::str(names[index])) + "' (" + position + ")";
}

NewEntries::~NewEntries() {
  if (entries_.empty()) return;
  const py::error_scope error_on_its_way;
  // Backwards: a parameter that is listed twice was given a state twice.
  for (const auto& [dict, key, before] : std::views::reverse(entries_)) {
    const int failed = before ? PyObject_SetItem(dict.ptr(), key.ptr(), before.ptr())
                              : PyObject_DelItem(dict.ptr(), key.ptr());
    if (failed != 0) PyErr_Clear();
  }
}

void NewEntries::insert(const py::object& dict, const py::object& key, const py::object& value) {
  auto before = py::reinterpret_borrow<py::object>(get(dict.ptr(), key.ptr()));
  // Not PyDict_SetItem: a subclass would not know of the entry, and an OrderedDict hide it.
  if (PyObject_SetItem(dict.ptr(), key.ptr(), value.ptr()) != 0) throw py::error_already_set();
  entries_.push_back({dict, key, std::move(before)});
}

}  // namespace onepass
