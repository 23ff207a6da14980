#include "call.h"

#include <cmath>
#include <utility>

#include "../launch/device.h"
#include "../launch/launcher.h"

namespace onepass {
namespace {

void check_scale(double scale) {
  TORCH_CHECK_VALUE(scale > 0.0 && std::isfinite(scale), "Invalid grad_scale: ", scale,
                    " (it must be positive and finite)");
}

void check_unchanged(bool is_unchanged) {
  TORCH_CHECK(is_unchanged, "gradients or state changed while their step was prepared, so it was ",
              "not taken; step again");
}

}  // namespace

Call::Call(const Algorithm& algorithm, SharedByCalls& shared)
    : algorithm_(algorithm), shared_(shared), reader_(algorithm), states_(algorithm) {}

void Call::end() {
  is_swept_ = false;
  plan_.clear();
  wrappers_.clear();
  dtensors_.end();
  reader_.let_go();
  groups_ = {};
  scaler_ = {};
  stateless_.clear();
  new_.clear();
}

bool Call::read_scaler(const py::object& grad_scale, const py::object& found_inf) {
  scaler_ = {};
  const auto read = [](const py::object& object, const OptionName& name, at::Tensor& on_device) {
    if (THPVariable_Check(object.ptr()) &&
        cuda::number_on_device(THPVariable_Unpack(object.ptr()))) {
      on_device = THPVariable_Unpack(object.ptr());
      cuda::check_number_on_device(on_device, name.text(), " (" + name.where() + ")");
      return 0.0;
    }
    return optional_number_of(object.ptr(), name).value_or(0.0);
  };
  if (read(found_inf, {"found_inf", -1, OptionName::kScaler}, scaler_.found_inf) != 0.0)
    return false;
  const double scale =
      read(grad_scale, {"grad_scale", -1, OptionName::kScaler}, scaler_.device_grad_scale);
  const bool given = !grad_scale.is_none() && !scaler_.device_grad_scale.defined();
  if (given) check_scale(scale);
  scaler_.grad_scale = scale;
  return true;
}

// For parameters on the CPU, which have to wait for a scaler on a device.
bool Call::read_scaler_on_cpu() {
  if (scaler_.found_inf.defined() && scaler_.found_inf.item().toDouble() != 0.0) return false;
  if (scaler_.device_grad_scale.defined()) {
    scaler_.grad_scale = scaler_.device_grad_scale.item().toDouble();
    check_scale(scaler_.grad_scale);
  }
  scaler_.device_grad_scale.reset();
  return true;
}

bool Call::settle_scaler(const Containers& containers) {
  const bool waits = scaler_.found_inf.defined() || scaler_.device_grad_scale.defined();
  if (!waits || !plan_.steps_on_cpu()) return true;
  if (!read_scaler_on_cpu()) return false;
  check_unchanged(plan_anew(containers));
  return true;
}

// All options are read before the first tensor is borrowed, and all state that is missing is made:
// both may run code of Python's, in which anything may be let go of or change. So the plan that is
// carried out is made after them, in one go.
bool Call::prepare(const Containers& containers, const py::function& new_state, NewEntries& made) {
  new_.clear();
  read_options(containers);
  if (!gather_again(containers)) return false;
  for (const auto& [param, group] : std::exchange(stateless_, {})) {
    made.insert(containers.state, param, new_state(param, group));
    new_.push_back(param);
  }
  if (!new_.empty() && !plan_anew(containers)) return false;
  if (!plan_.new_decay_logs().empty()) {
    states_.add_logs(plan_.new_decay_logs(), containers.groups, containers.state.ptr(), made);
    check_unchanged(plan_anew(containers));
    check_unchanged(plan_.new_decay_logs().empty());
  }
  return true;
}

// Gathers until no two meshes are left to compare.
bool Call::gather_again(const Containers& containers) {
  while (!gather(containers, GatherMode::kWithGradients))
    if (!dtensors_.compare_meshes()) return false;
  return true;
}

// Plans all that the step needs. Returns false where Python has to look.
bool Call::plan_anew(const Containers& containers) {
  if (!gather_again(containers)) return false;
  check_unchanged(stateless_.empty());
  return true;
}

void Call::read_options(const Containers& containers) {
  const auto& [groups, state, param] = containers;
  first_group_ = 0;
  offset_ = param == nullptr ? 0 : shared_.places.find(groups, param).group;
  groups_ = param == nullptr ? reader_.read(groups, 0) : reader_.read_one(groups, offset_);
  TORCH_CHECK(param == nullptr || !groups_.front().needs_grad_norm(), "step_one() cannot step a ",
              "single parameter of a group with max_grad_norm or skip_nonfinite, which need the ",
              "gradients of all parameters; call step()");
}

void Call::check(const Containers& containers, int first_group) {
  offset_ = 0;
  first_group_ = first_group;
  groups_ = reader_.read(containers.groups, first_group_);
  gather(containers, GatherMode::kWithStates);
}

void Call::check_arguments(PyObject* arguments, bool ranges) {
  reader_.check_arguments(arguments, ranges);
}

bool Call::stage(const Containers& containers, std::span<Averages* const> averages) {
  plan_.stage();
  if (!plan_.measure()) return false;
  lets_others_run_ = plan_.lets_others_run();
  for (Averages* const one : averages) {
    plan_.lead(one->plan());
    lets_others_run_ |= one->plan().lets_others_run();
  }
  if (lets_others_run_) {
    plan_.hold();
    for (Averages* const one : averages) one->plan().hold();
  }
  reader_.raise_reference_rates(containers.groups);
  return true;
}

void Call::take(std::span<Averages* const> averages) {
  plan_.commit();
  for (Averages* const one : averages) one->plan().commit();
  for (c10::TensorImpl* const wrapper : wrappers_) wrapper->bump_version();
  if (!lets_others_run_) return sweep(averages);
  is_swept_ = true;
  const py::gil_scoped_release others_may_run;
  sweep(averages);
}

void Call::sweep(std::span<Averages* const> averages) {
  plan_.sweep();
  for (Averages* const one : averages) one->plan().sweep();
}

}  // namespace onepass
