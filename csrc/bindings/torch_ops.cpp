// The torch ops: one in-place op on tensor lists for every algorithm. Schema, CPU kernel and fake
// kernel follow from the table; the kernels are boxed, so that one function serves all of them.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>

#include "../launch/device.h"
#include "../step/plan.h"
#include "option_values.h"

namespace onepass {
namespace {

// adamw_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, ..., Tensor(e!)[] state_steps,
// *,
//        Tensor lr, ..., float eps, bool maximize=False, Tensor? found_inf=None) -> ()
// The list of a state that is not in use is empty, an optional number that is not in use is None.
// What is no optimizer has neither steps of its own nor a step to turn round or to skip.
std::string schema(const Algorithm& algorithm) {
  char alias = 'a';
  const auto written = [&alias](const std::string& name) {
    return std::string("Tensor(") + alias++ + "!)[] " + name;
  };
  std::string text = std::string(algorithm.name) + "_(" + written(algorithm.roles.written) +
                     ", Tensor[] " + algorithm.roles.read;
  for (const State& state : algorithm.states) text += ", " + written(std::string(state.name) + "s");
  for (const State& number : algorithm.numbers)
    text += ", " + written(std::string(number.name) + "s");
  if (algorithm.is_optimizer) text += ", " + written("state_steps");
  text += ", *";
  for (const HyperInfo& hyper : algorithm.hypers) {
    const char* type = hyper.range == Range::kFlag ? "bool" : hyper.scheduled ? "Tensor" : "float";
    const char* unused = hyper.range == Range::kFlag ? "=False"
                         : hyper.scheduled           ? "=None"
                                                     : "=0.0";
    text += std::string(", ") + type + (hyper.scheduled && hyper.optional ? "? " : " ") +
            hyper.name + (hyper.optional ? unused : "");
  }
  if (algorithm.is_optimizer) text += ", bool maximize=False, Tensor? found_inf=None";
  return text + ") -> ()";
}

double number_in(const c10::IValue& value, const char* name, bool optional) {
  if (value.isNone() || (value.isTensor() && !value.toTensor().defined())) {
    TORCH_CHECK_VALUE(optional, name, " must be a tensor with one number, got None");
    return 0.0;
  }
  if (value.isBool()) return value.toBool() ? 1.0 : 0.0;
  if (!value.isTensor()) return value.toDouble();
  TORCH_CHECK_VALUE(value.toTensor().numel() == 1, "Tensor ", name, " must be 1-element");
  return value.toTensor().item().toDouble();
}

Precision precision_of(const c10::IValue& number) {
  const bool is_single = number.isTensor() && number.toTensor().defined() &&
                         number.toTensor().scalar_type() != at::kDouble;
  return is_single ? Precision::kSingle : Precision::kDouble;
}

bool is_number_on_device(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().defined() && cuda::number_on_device(value.toTensor());
}

// A number as Python shows it: -1.0 and not -1.
std::string shown(double value) {
  std::string text = c10::str(value);
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

struct ArgumentNames final : Names {
  explicit ArgumentNames(const Algorithm& algorithm) : list(algorithm.roles.written) {}
  std::string parameter(int, int index) const override {
    return list + "[" + std::to_string(index) + "]";
  }
  std::string list;
};

// The arguments of one call, taken from the stack by position.
class Arguments {
 public:
  Arguments(const Algorithm& algorithm, const torch::jit::Stack& stack, std::size_t count)
      : algorithm_(algorithm),
        values_(stack.end() - static_cast<std::ptrdiff_t>(count), stack.end()) {
    for (std::size_t k = 0; k < 2 + algorithm.states.size() + algorithm.numbers.size(); ++k)
      lists_.push_back(next().toTensorVector());
    lists_.push_back(algorithm.is_optimizer ? next().toTensorVector() : std::vector<at::Tensor>{});
    check_lengths();
  }

  Group group() {
    Group group{.algorithm = &algorithm_};
    for (std::size_t k = 0; k < algorithm_.states.size(); ++k)
      if ((present_ >> k & 1) != 0) group.add_state(k);
    for (std::size_t k = 0; k < algorithm_.hypers.size(); ++k) {
      const HyperInfo& hyper = algorithm_.hypers[k];
      const c10::IValue& value = next();
      if (steps_on_devices() && is_number_on_device(value)) {
        cuda::check_number_on_device(value.toTensor(), hyper.name, "");
        group.device_hypers.emplace_back(k, value.toTensor());
        continue;
      }
      group.hypers[k] =
          hyper.counted(number_in(value, hyper.name, hyper.optional), precision_of(value));
      if (!hyper.allows(group.hypers[k]))
        reject(hyper, shown(group.hypers[k]), std::string("argument ") + hyper.name);
    }
    group.maximize = algorithm_.is_optimizer && next().toBool();
    return group;
  }

  // Whether the host knows that there is no step to take; a device is told where to look.
  bool is_skipped(Scaler& scaler) {
    if (!algorithm_.is_optimizer) return false;
    const c10::IValue& found_inf = next();
    if (!steps_on_devices() || !is_number_on_device(found_inf))
      return number_in(found_inf, "found_inf", true) != 0.0;
    cuda::check_number_on_device(found_inf.toTensor(), "found_inf", "");
    scaler.found_inf = found_inf.toTensor();
    return false;
  }

  std::size_t size() const { return lists_[0].size(); }

  void check_on_meta(std::size_t k) const {
    for (std::size_t list = 0; list + 1 < lists_.size(); ++list)
      TORCH_CHECK(lists_[list].empty() || lists_[list][k].is_meta(), algorithm_.name, "_: tensor ",
                  k, " of list ", list, " is on ", lists_[list][k].device(),
                  ", but others of this call are on meta; move them to one device");
  }

  Tensors tensors(std::size_t k) const {
    Tensors tensors{&lists_[0][k], &lists_[1][k]};
    if (!lists_.back().empty()) tensors.step = &lists_.back()[k];
    const std::size_t first_number = 2 + algorithm_.states.size();
    for (std::size_t number = 0; number < algorithm_.numbers.size(); ++number)
      tensors.numbers[number] = &lists_[first_number + number][k];
    int count = 0;
    for (std::size_t state = 0; state < algorithm_.states.size(); ++state)
      if ((present_ >> state & 1) != 0) tensors.states[count++] = &lists_[2 + state][k];
    return tensors;
  }

 private:
  const c10::IValue& next() { return values_[position_++]; }

  bool steps_on_devices() const {
    return size() > 0 && std::ranges::all_of(lists_[0], cuda::on_device);
  }

  void check_lengths() {
    for (std::size_t k = 1; k < lists_.size(); ++k) {
      const bool is_state = k >= 2 && k < 2 + algorithm_.states.size();
      const bool is_step = k + 1 == lists_.size();
      const bool may_lack = (is_state && algorithm_.states[k - 2].only_if != nullptr) ||
                            (is_step && !algorithm_.counts_steps);
      TORCH_CHECK(lists_[k].size() == size() || (may_lack && lists_[k].empty()), algorithm_.name,
                  "_: list ", k, " has ", lists_[k].size(), " tensors, but ",
                  algorithm_.roles.written, " has ", size());
      if (is_state && (!lists_[k].empty() || !may_lack)) present_ |= 1u << (k - 2);
    }
  }

  const Algorithm& algorithm_;
  std::vector<c10::IValue> values_;
  std::vector<std::vector<at::Tensor>> lists_;
  std::size_t position_ = 0;
  unsigned present_ = 0;
};

const Algorithm& algorithm_of(const c10::OperatorHandle& op) {
  std::string name = op.operator_name().name.substr(std::string("onepass::").size());
  name.pop_back();  // the underscore of an op that writes in place
  return *find_algorithm(name);
}

// On the CPU and on CUDA devices.
void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::size_t count = op.schema().arguments().size();
  Arguments arguments(algorithm_of(op), *stack, count);
  torch::jit::drop(*stack, count);
  const Group group = arguments.group();
  Scaler scaler;
  if (arguments.is_skipped(scaler)) return;
  Plan plan;
  plan.begin({&group, 1}, scaler);
  const ArgumentNames names(*group.algorithm);
  for (std::size_t k = 0; k < arguments.size(); ++k)
    plan.add(arguments.tensors(k), {names, 0, static_cast<int>(k)});
  plan.close();
  TORCH_CHECK(plan.new_decay_logs().empty(), "a sparse gradient with decoupled decay needs the ",
              "state of an optimizer, which this op has none of; take the step by opt.step()");
  RECORD_FUNCTION(std::string("onepass::") + group.algorithm->name, {});
  plan.stage();
  if (plan.lets_others_run()) plan.hold();  // who calls an op lets go of the GIL
  plan.commit();                            // an op clips no gradients: its caller does
  plan.sweep();
}

// The shapes do not change and nothing is returned: there is nothing to infer. One tensor on meta
// among others brings a call here, which must not pass for a step.
void run_on_meta(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::size_t count = op.schema().arguments().size();
  const Arguments arguments(algorithm_of(op), *stack, count);
  torch::jit::drop(*stack, count);
  for (std::size_t k = 0; k < arguments.size(); ++k) arguments.check_on_meta(k);
}

}  // namespace

TORCH_LIBRARY(onepass, library) {
  for (const Algorithm& algorithm : algorithms())
    library.def(schema(algorithm).c_str(), {at::Tag::pt2_compliant_tag});
}

void implement(torch::Library& library) {
  for (const Algorithm& algorithm : algorithms())
    library.impl((std::string(algorithm.name) + "_").c_str(),
                 torch::CppFunction::makeFromBoxedFunction<&run>());
}

TORCH_LIBRARY_IMPL(onepass, CPU, library) { implement(library); }

TORCH_LIBRARY_IMPL(onepass, CUDA, library) { implement(library); }

TORCH_LIBRARY_IMPL(onepass, Meta, library) {
  for (const Algorithm& algorithm : algorithms())
    library.impl((std::string(algorithm.name) + "_").c_str(),
                 torch::CppFunction::makeFromBoxedFunction<&run_on_meta>());
}

}  // namespace onepass
