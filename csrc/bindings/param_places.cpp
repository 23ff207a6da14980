#include "param_places.h"

namespace onepass {

bool ParamPlaces::stands(PyObject* param, const ParamPlace& place, PyObject* groups) const {
  if (PyList_GET_SIZE(groups) != static_cast<Py_ssize_t>(sizes_.size())) return false;
  PyObject* const params = params_of(PyList_GET_ITEM(groups, place.group), place.group);
  return PyList_GET_SIZE(params) == sizes_[place.group] &&
         PyList_GET_ITEM(params, place.index) == param;
}

void ParamPlaces::walk(PyObject* groups) {
  places_.clear();
  sizes_.clear();
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(groups); ++i) {
    PyObject* const params = params_of(PyList_GET_ITEM(groups, i), static_cast<int>(i));
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(params); ++k) {
      const auto [found, is_new] = places_.try_emplace(PyList_GET_ITEM(params, k));
      found->second.repeated = !is_new;
      found->second.group = static_cast<int>(i);
      found->second.index = static_cast<int>(k);
    }
    sizes_.push_back(PyList_GET_SIZE(params));
  }
}

const ParamPlace& ParamPlaces::find(PyObject* groups, PyObject* param) {
  auto found = places_.find(param);
  if (found == places_.end() || found->second.repeated || !stands(param, found->second, groups)) {
    walk(groups);
    found = places_.find(param);
  }
  TORCH_CHECK_VALUE(found != places_.end(), "this ", Py_TYPE(param)->tp_name, " is not among the ",
                    "optimizer's parameters; add it with add_param_group()");
  const ParamPlace& place = found->second;
  TORCH_CHECK_VALUE(!place.repeated, ParameterNames(groups).parameter(place.group, place.index),
                    " is listed more than once, and step() would step it as often; list it once");
  return place;
}

}  // namespace onepass
