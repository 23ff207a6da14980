// The native module onepass._C.
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <torch/csrc/Exceptions.h>

#include "../../tests/cuda_emulation/bindings.h"
#include "../cuda/runtime.h"
#include "../sweep/flat_index.h"
#include "../sweep/instruction_sets.h"
#include "optimizer_step.h"

#ifndef ONEPASS_VERSION
#define ONEPASS_VERSION "unknown"
#endif
#ifndef ONEPASS_TORCH_VERSION
#define ONEPASS_TORCH_VERSION "unknown"
#endif
#ifndef ONEPASS_CUDA_ARCHS
#define ONEPASS_CUDA_ARCHS ""
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
  info["cuda_archs"] = ONEPASS_CUDA_ARCHS;
  info["instruction_sets"] = sets;
  info["instruction_set"] = kInstructionSets[instruction_set()];
  return info;
}

void set_instruction_set(const std::string& name) {
  for (int k = 0; k <= widest_instruction_set(); ++k) {
    if (name != kInstructionSets[k]) continue;
    instruction_set() = k;
    return;
  }
  TORCH_CHECK_VALUE(false, "this machine has no instruction set '", name, "'");
}

py::list described(std::span<const State> states) {
  py::list list;
  for (const State& state : states)
    list.append(py::dict(py::arg("name") = state.name, py::arg("only_if") = state.only_if,
                         py::arg("start") = state.start, py::arg("start_at") = state.start_at));
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

// What each of `parts` equal stretches of the line of tensors holds: (tensor, begin, end).
py::list pieces(const std::vector<std::int64_t>& sizes, std::int64_t parts) {
  TORCH_CHECK_VALUE(parts > 0, "parts must be positive, got ", parts);
  std::vector<std::int64_t> ends;
  ends.reserve(sizes.size());
  for (const std::int64_t size : sizes) ends.push_back((ends.empty() ? 0 : ends.back()) + size);
  const std::int64_t total = ends.empty() ? 0 : ends.back();
  const std::int64_t length = std::max<std::int64_t>(1, (total + parts - 1) / parts);
  py::list all;
  for (std::int64_t begin = 0; begin < total; begin += length) {
    py::list args;
    for_each_piece(ends, begin, std::min(total, begin + length),
                   [&](std::int64_t k, std::int64_t from, std::int64_t to) {
                     args.append(py::make_tuple(k, from, to));
                   });
    all.append(args);
  }
  return all;
}

// As few instructions as read every operand and write all but the gradient. Copies from one to the
// next would not do: what is overwritten would not be read.
template <int kStates>
ONEPASS_FN void touch(const LoopArgs& args) {
  auto* const param = static_cast<std::uint32_t*>(args.param);
  const auto* const grad = static_cast<const std::uint32_t*>(args.grad);
  std::uint32_t* states[kMaxStates];
  for (int k = 0; k < kStates; ++k) states[k] = static_cast<std::uint32_t*>(args.states[k]);
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < args.size; ++i) {
    const std::uint32_t bits = grad[i];
    param[i] ^= bits;
    for (int k = 0; k < kStates; ++k) states[k][i] ^= bits;
  }
}

template <int... kStates>
Loop touch_of(std::size_t states, std::integer_sequence<int, kStates...>) {
  const Loop loops[] = {PerInstructionSet<&touch<kStates>>::table[instruction_set()]...};
  return loops[states];
}

// Reads and writes the bytes of a step in float32 and computes nothing: the limit to hold the sweep
// against.
void sweep_without_arithmetic(const at::Tensor& param, const at::Tensor& grad,
                              const std::vector<at::Tensor>& states) {
  TORCH_CHECK_VALUE(states.size() <= kMaxStates, "at most ", kMaxStates, " states, got ",
                    states.size());
  std::uint32_t* starts[kMaxOperands] = {};
  int count = 0;
  const auto take = [&](const at::Tensor& tensor) {
    TORCH_CHECK_VALUE(tensor.scalar_type() == at::kFloat && tensor.is_cpu() &&
                          tensor.is_contiguous() && tensor.numel() == param.numel(),
                      "all tensors must be float32 on the CPU, contiguous and of one size");
    starts[count++] = static_cast<std::uint32_t*>(tensor.mutable_data_ptr());
  };
  take(param);
  take(grad);
  for (const at::Tensor& state : states) take(state);
  const Loop loop = touch_of(states.size(), std::make_integer_sequence<int, kMaxStates + 1>{});
  at::parallel_for(0, param.numel(), kParallelThreshold / 2, [&](std::int64_t i, std::int64_t end) {
    LoopArgs args{};
    args.param = starts[0] + i;
    args.grad = starts[1] + i;
    for (int k = 2; k < count; ++k) args.states[k - 2] = starts[k] + i;
    args.size = end - i;
    loop(args);
  });
}

}  // namespace
}  // namespace onepass

PYBIND11_MODULE(_C, m) {
  using namespace onepass;
  // NOLINTNEXTLINE(performance-unnecessary-value-param): the type that pybind11 takes
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const c10::Error&) {
      torch::translate_exception_to_python(error);
    }
  });
  py::class_<OptimizerStep>(m, "Step")
      .def(py::init<const std::string&>(), py::arg("algorithm"))
      .def("step", &OptimizerStep::step, py::arg("groups"), py::arg("state"), py::arg("new_state"),
           py::arg("grad_scale"), py::arg("found_inf"))
      .def("step_one", &OptimizerStep::step_one, py::arg("groups"), py::arg("state"),
           py::arg("param"), py::arg("new_state"))
      .def("place_of", &OptimizerStep::place_of, py::arg("groups"), py::arg("state"),
           py::arg("param"))
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
  m.def("dispatch_mode_is_active", &dispatch_mode_is_active);
  m.def("is_profiled", &is_profiled);
  m.def("build_info", &build_info);
  m.def("rules", &rules);
  m.def("set_instruction_set", &set_instruction_set, py::arg("name"));
  m.def("pieces", &pieces, py::arg("sizes"), py::arg("parts"));
  m.def("sweep_without_arithmetic", &sweep_without_arithmetic, py::arg("param"), py::arg("grad"),
        py::arg("states"));
#ifdef ONEPASS_EMULATE_CUDA
  emulation::bind(m);
#endif
}
