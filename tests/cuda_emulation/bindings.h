#pragma once

#include <pybind11/pybind11.h>

namespace onepass::emulation {

// Adds the submodule `emulation`, of builds for tests.
void bind(pybind11::module_& module);

}  // namespace onepass::emulation
