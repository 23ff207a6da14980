// Reading Python objects natively: dicts, numbers, tensors, and the names of parameters.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../tensor/checks.h"
#include "../tensor/python_compat.h"

namespace onepass {

// A string object that lives as long as the process and is compared by identity first.
PyObject* interned(const char* text);

// The value under a string key, or null.
PyObject* get(PyObject* dict, PyObject* key);

bool is_true(PyObject* object);

// The list of a group's parameters; raises where there is none.
PyObject* params_of(PyObject* group, int index);

// Where a number comes from, for error messages.
struct OptionName {
  static constexpr int kScaler = -1, kArgument = -2;

  const char* key;
  int index;  // in the tuple under the key, or -1
  int group;  // or kScaler for what the gradient scaler sets, kArgument for a constructor's
              // argument

  std::string text() const;   // "betas[0]"
  std::string where() const;  // "parameter group 2"
};

// An object as an error message shows it: never long, and never an error of its own.
std::string shown(PyObject* object);

// A Python number or a tensor with one element.
double number_of(PyObject* object, const OptionName& name);

// The same, or nothing for None.
std::optional<double> optional_number_of(PyObject* object, const OptionName& name);

[[noreturn]] void reject_tensor(PyObject* object, const Subject& subject);

inline const at::Tensor& tensor_of(PyObject* object, const Subject& subject, const char* role) {
  if (object == nullptr || !THPVariable_Check(object)) reject_tensor(object, subject.about(role));
  return THPVariable_Unpack(object);
}

// Items of a dict that is nearly always asked for them in its own order.
class InOrder {
 public:
  explicit InOrder(PyObject* dict) : dict_(dict) {}

  // The value under the very object `key` if it comes next, else null.
  PyObject* take(PyObject* key) {
    if (key_ == nullptr && PyDict_Next(dict_, &position_, &key_, &value_) == 0) return nullptr;
    if (key_ != key) return nullptr;
    key_ = nullptr;
    return value_;
  }

  // The value under a key wherever it stands, or null.
  PyObject* find(PyObject* key) {
    PyObject* const value = take(key);
    return value != nullptr ? value : get(dict_, key);
  }

 private:
  PyObject *dict_, *key_ = nullptr, *value_ = nullptr;  // the item that comes next, once looked at
  Py_ssize_t position_ = 0;
};

// The states of parameters by identity and without hashing, since Tensor.__hash__ is Python code.
class StateLookup {
 public:
  explicit StateLookup(PyObject* state) : state_(state), in_order_(state) {}

  PyObject* find(PyObject* param) {
    PyObject* const next = in_order_.take(param);
    return next != nullptr ? next : find_anywhere(param);
  }
  // Passes over a parameter whose state is not needed.
  void skip(PyObject* param) { in_order_.take(param); }

 private:
  PyObject* find_anywhere(PyObject* param);

  PyObject* state_;
  InOrder in_order_;
  bool indexed_ = false;
  std::unordered_map<PyObject*, PyObject*> index_;
};

// "'layer.weight' (parameter 3 of group 0)"
class ParameterNames final : public Names {
 public:
  // Groups are counted from `first` on.
  explicit ParameterNames(PyObject* groups, int first = 0) : groups_(groups), first_(first) {}
  std::string parameter(int group, int index) const override;

 private:
  PyObject* groups_;
  int first_;
};

// Adds entries to dicts, and takes them out again unless they are kept.
class NewEntries {
 public:
  NewEntries() = default;
  NewEntries(const NewEntries&) = delete;
  NewEntries& operator=(const NewEntries&) = delete;
  ~NewEntries();

  void insert(const py::object& dict, const py::object& key, const py::object& value);
  void keep() { entries_.clear(); }

 private:
  struct Entry {
    py::object dict, key, before;  // null where there was nothing before
  };
  std::vector<Entry> entries_;
};

}  // namespace onepass
