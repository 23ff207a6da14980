// Where single parameters stand in the groups and where their states were found, so that to step
// one of many takes no walk over all.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "python_access.h"
#include "python_state.h"

namespace onepass {

struct Place {
  int group = 0, index = 0;
  bool repeated = false;      // it is listed once more
  PyObject* own = nullptr;    // its state, or null, while the optimizer's has this version
  std::uint64_t version = 0;  // 0: to be looked up
  StatePlace state;           // the tensors in `own`
};

// By the parameters' identity. What was found is compared with the live groups and dicts before it
// is used, so that it can never be stale. A place is good until code of Python's runs, in which
// another thread may look for another parameter.
class Places {
 public:
  // Raises where the parameter is not in the groups, or more than once. Walks over the groups where
  // it does not stand where it stood.
  Place& find(PyObject* groups, PyObject* param);
  // The same with its state looked up. Only before it returns may code of Python's run:
  // Tensor.__hash__ is that.
  Place& find_with_state(PyObject* groups, PyObject* state, PyObject* param);

 private:
  bool stands(PyObject* param, const Place& place, PyObject* groups) const;
  void walk(PyObject* groups);

  std::unordered_map<PyObject*, Place> places_;
  // How many parameters each group had: where one more is listed it may be one that was there.
  std::vector<Py_ssize_t> sizes_;
};

}  // namespace onepass
