// The native module onepass._C.
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <torch/csrc/Exceptions.h>

#include "../cuda/runtime.h"
#include "../registry/algorithm.h"
#include "../sweep/instruction_sets.h"
#include "../sweep/parallel.h"
#include "../tensor/codes.h"
#include "optimizer_step.h"

#ifdef ONEPASS_EMULATE_CUDA
#include "../../tests/cuda_emulation/bindings.h"
#endif

#ifndef ONEPASS_VERSION
#define ONEPASS_VERSION "unknown"
#endif
#ifndef ONEPASS_TORCH_VERSION
#define ONEPASS_TORCH_VERSION "unknown"
#endif

namespace onepass {
namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

py::dict build_info() {
  py::list sets;
  for (int k = 0; k < kInstructionSetCount; ++k) sets.append(kInstructionSets[k]);
  py::dict info;
  info["version"] = ONEPASS_VERSION;
  info["torch"] = ONEPASS_TORCH_VERSION;
  info["compiler"] = compiler();
  info["cuda_compiler"] = cuda::compiler();
  info["cuda_archs"] = cuda::architectures();
  info["instruction_sets"] = sets;
  info["instruction_set"] = kInstructionSets[instruction_set()];
  return info;
}

void use_instruction_set(const std::string& name) {
  for (int k = 0; k <= widest_instruction_set(); ++k) {
    if (name != kInstructionSets[k]) continue;
    set_instruction_set(k);
    return;
  }
  TORCH_CHECK_VALUE(false, "this machine has no instruction set '", name, "'");
}

py::list described(std::span<const State> states) {
  py::list list;
  for (const State& state : states)
    list.append(py::dict(py::arg("name") = state.name, py::arg("only_if") = state.only_if,
                         py::arg("start") = state.start, py::arg("start_at") = state.start_at,
                         py::arg("is_non_negative") = state.is_non_negative,
                         py::arg("keeps_floats") = state.keeps_floats));
  return list;
}

// The table of algorithms, for Python, the tests and the docs.
py::list rules() {
  py::list rows;
  for (const Algorithm& algorithm : algorithms()) {
    py::list hypers;
    for (const HyperInfo& hyper : algorithm.hypers)
      hypers.append(py::dict(py::arg("name") = hyper.name, py::arg("key") = hyper.key,
                             py::arg("index") = hyper.index, py::arg("scheduled") = hyper.scheduled,
                             py::arg("is_flag") = hyper.range == Range::kFlag));
    rows.append(py::dict(
        py::arg("name") = algorithm.name, py::arg("is_optimizer") = algorithm.is_optimizer,
        py::arg("counts_steps") = algorithm.counts_steps, py::arg("sums") = algorithm.always_sums(),
        py::arg("numbers") = described(algorithm.numbers),
        py::arg("states") = described(algorithm.states), py::arg("hypers") = hypers));
  }
  return rows;
}

// Whether somebody asked to be told of what Python names by record_function.
bool is_profiled() { return at::isRecordFunctionEnabled() && at::hasCallbacks(); }

void parallel_for_of_torch(std::int64_t begin, std::int64_t end, std::int64_t grain_size,
                           void (*work)(const void*, std::int64_t, std::int64_t),
                           const void* context) {
  at::parallel_for(begin, end, grain_size,
                   [&](std::int64_t first, std::int64_t last) { work(context, first, last); });
}

// Brings the two libraries together.
void meet_library_of_kernels() {
  if (library_version() != ONEPASS_VERSION)
    throw py::import_error("the kernels that lie here are those of onepass " +
                           std::string(library_version()) + ", not of " ONEPASS_VERSION);
  set_parallel_for(&parallel_for_of_torch);
}

}  // namespace
}  // namespace onepass

PYBIND11_MODULE(_C, m) {
  using namespace onepass;
  meet_library_of_kernels();
  // NOLINTNEXTLINE(performance-unnecessary-value-param): the type that pybind11 takes
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const c10::Error&) {
      torch::translate_exception_to_python(error);
    }
  });
  py::class_<Averages>(m, "Averages").def(py::init<>());
  py::class_<OptimizerStep>(m, "Step")
      .def(py::init<const std::string&>(), py::arg("algorithm"))
      .def("step", &OptimizerStep::step, py::arg("groups"), py::arg("state"), py::arg("new_state"),
           py::arg("grad_scale"), py::arg("found_inf"), py::arg("averages") = py::list())
      .def("step_one", &OptimizerStep::step_one, py::arg("groups"), py::arg("state"),
           py::arg("param"), py::arg("new_state"))
      .def("place_of", &OptimizerStep::place_of, py::arg("groups"), py::arg("state"),
           py::arg("param"))
      .def_property_readonly("grad_norm", &OptimizerStep::grad_norm)
      .def_property_readonly("steps_taken", &OptimizerStep::steps_taken)
      .def_static("skips", &OptimizerStep::skips, py::arg("found_inf"))
      .def("rehearse", &OptimizerStep::rehearse, py::arg("groups"), py::arg("state"),
           py::arg("new_state"))
      .def("check", &OptimizerStep::check, py::arg("groups"), py::arg("state"),
           py::arg("first_group") = 0)
      .def("check_arguments", &OptimizerStep::check_arguments, py::arg("arguments"),
           py::arg("ranges"));
  m.def("catch_up", [](const at::Tensor& param, const at::Tensor& sum, const at::Tensor& at_row) {
    catch_up(param, {&sum, &at_row});
  });
  m.def("encode_state", &encode_state, py::arg("state"), py::arg("is_non_negative"));
  m.def("decode_state", &decode_state, py::arg("codes"), py::arg("exponents"));
  m.def("dispatch_mode_is_active", &dispatch_mode_is_active);
  m.def("is_profiled", &is_profiled);
  m.def("build_info", &build_info);
  m.def("rules", &rules);
  m.def("set_instruction_set", &use_instruction_set, py::arg("name"));
#ifdef ONEPASS_EMULATE_CUDA
  emulation::bind(m);
#endif
}
