// The emulation's switches and counters, for tests written in Python.
#ifdef ONEPASS_EMULATE_CUDA

#include "bindings.h"

#include <c10/util/Exception.h>
#include <pybind11/stl.h>

#include "../../csrc/launch/device.h"
#include "cuda.h"

namespace onepass::emulation {
namespace {

namespace py = pybind11;

// Which tensors of the CPU are taken for those of a device: none, all but numbers, or all.
void use(const std::string& tensors) {
  using cuda::Emulation;
  const std::pair<const char*, Emulation> modes[] = {{"none", Emulation::kOff},
                                                     {"elements", Emulation::kTensors},
                                                     {"all", Emulation::kTensorsAndNumbers}};
  for (const auto& [name, mode] : modes) {
    if (tensors != name) continue;
    cuda::emulation_in_use() = mode;
    return;
  }
  TORCH_CHECK_VALUE(false, "tensors must be none, elements or all, got ", tensors);
}

void set_order(const std::string& kind, std::uint64_t seed) {
  TORCH_CHECK_VALUE(kind == "ascending" || kind == "descending" || kind == "shuffled",
                    "the order must be ascending, descending or shuffled, got ", kind);
  order = kind == "ascending" ? kAscending : kind == "descending" ? kDescending : shuffled(seed);
}

py::dict described(const Accesses& accesses) {
  py::dict words;
  for (std::size_t size = 1; size < accesses.words.size(); ++size)
    if (accesses.words[size] > 0) words[py::int_(size)] = accesses.words[size];
  return py::dict(py::arg("bytes") = accesses.bytes(), py::arg("words") = words);
}

// What kernels did since the last call: launched, loaded and stored.
py::dict take_record() {
  py::dict record(py::arg("launches") = launches, py::arg("loads") = described(counters.loads),
                  py::arg("stores") = described(counters.stores));
  launches.clear();
  counters = {};
  return record;
}

}  // namespace

void bind(py::module_& module) {
  py::module_ emulation = module.def_submodule("emulation");
  emulation.def("use", &use, py::arg("tensors"));
  emulation.def("set_order", &set_order, py::arg("kind"), py::arg("seed") = 0);
  emulation.def("take_record", &take_record);
  emulation.def("set_capturing", [](bool capturing) {
    runtime.capture_status =
        capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  });
  emulation.def("set_running", [](bool on) { running = on; });
  emulation.def("fail_next_launch", [] { runtime.last_error = cudaErrorLaunchFailure; });
}

}  // namespace onepass::emulation

#endif
