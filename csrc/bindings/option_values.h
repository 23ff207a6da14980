// The numbers of a parameter group: from Python's objects to doubles, checked.
#pragma once

#include "../registry/algorithm.h"
#include "pyobject.h"

namespace onepass {

// Whether an object will always be read as the same number or numbers.
bool is_constant(PyObject* object);

// Whether an object is a number in its range that can be read without running Python code.
bool read_plain(PyObject* object, const HyperInfo& hyper, double& number);

// The option itself, or its item under the key of several; raises where there is none.
py::object option_of(PyObject* value, const HyperInfo& hyper, int group);

// Raises a ValueError in torch's words. `shown` is the value as the user wrote it, `where` says
// which parameter group or argument holds it.
[[noreturn]] void reject(const HyperInfo& hyper, const std::string& shown,
                         const std::string& where);

// Raises in torch's words unless the number is in its range.
void check_range(double number, const py::object& item, const HyperInfo& hyper,
                 const OptionName& name);

// Any number, checked; reading it may run Python code.
double read_hyper(const py::object& item, const HyperInfo& hyper, int group);

// Whether an option is there and true.
bool is_set(PyObject* value);

// Whether an option names the rounding "stochastic"; raises where it names none.
bool is_stochastic(PyObject* value, int group);

// Whether a number is a tensor that only a device reads.
bool is_on_device(const py::object& item);

}  // namespace onepass
