// Where single parameters stand in the groups, so that to step one of many takes no walk over all.
#pragma once

#include <unordered_map>
#include <vector>

#include "pyobject.h"

namespace onepass {

struct ParamPlace {
  int group = 0, index = 0;
  bool repeated = false;  // it is listed once more
};

// By the parameters' identity. What was found is compared with the live groups before it is used,
// so that it can never be stale. A place is good until Python code runs, in which another thread
// may look for another parameter.
class ParamPlaces {
 public:
  // Raises where the parameter is not in the groups, or more than once. Walks over the groups where
  // it does not stand where it stood.
  const ParamPlace& find(PyObject* groups, PyObject* param);

 private:
  bool stands(PyObject* param, const ParamPlace& place, PyObject* groups) const;
  void walk(PyObject* groups);

  std::unordered_map<PyObject*, ParamPlace> places_;
  // How many parameters each group had: where one more is listed it may be one that was there.
  std::vector<Py_ssize_t> sizes_;
};

}  // namespace onepass
