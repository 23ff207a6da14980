// Plan: the parameters on devices, handed to their kernels.
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "cuda/place.h"
#include "plan.h"

namespace onepass {
namespace {

// What belongs to a device, made where nothing does yet. Devices are few.
template <class Value>
Value& found(std::vector<std::pair<c10::Device, Value>>& by_device, c10::Device device,
             Value made) {
  for (auto& [its_device, value] : by_device)
    if (its_device == device) return value;
  return by_device.emplace_back(device, std::move(made)).second;
}

}  // namespace

// The spans of a parameter's numbers, which threads of a device would change at the same time.
void Plan::add_numbers(const Entry& entry, std::vector<Span>& spans) const {
  const auto add = [&spans](const at::TensorBase* number) {
    if (number == nullptr || !cuda::number_on_device(*number)) return;
    const auto* const begin = static_cast<const std::byte*>(number->const_data_ptr());
    spans.push_back({begin, begin + number->itemsize()});
  };
  add(entry.tensors.step);
  for (const at::TensorBase* number : entry.tensors.numbers) add(number);
}

bool Plan::steps_on_cpu() const {
  return std::ranges::any_of(entries_, [](const Entry& entry) { return !entry.on_device; });
}

// Sorts the parameters on devices by device, with their numbers.
void Plan::gather_on_devices() {
  for (auto& [device, parameters] : on_devices_) parameters.clear();
  for (std::size_t k = 0; k < entries_.size(); ++k) {
    const Entry& entry = entries_[k];
    if (!entry.on_device) continue;
    const Tensors& tensors = entry.tensors;
    const Group& group = groups_[entry.group];
    cuda::Parameter& parameter =
        found(on_devices_, tensors.param->device(), {}).emplace_back(&tasks_[k], &group);
    if (tensors.step != nullptr && cuda::number_on_device(*tensors.step)) {
      parameter.step = cuda::scalar_of(*tensors.step);
    } else {
      parameter.step.value = next_step(entry);
    }
    for (std::size_t n = 0; n < group.algorithm->numbers.size(); ++n)
      parameter.numbers[n] = cuda::scalar_of(*tensors.numbers[n]);
  }
}

double Plan::next_step(const Entry& entry) {
  if (entry.tensors.step == nullptr) return entry.tensors.is_new ? 1.0 : 2.0;
  return entry.count != nullptr ? *entry.count + 1.0f : next_count(*entry.tensors.step);
}

void Plan::stage_on_devices() {
  gather_on_devices();
  for (const auto& [device, parameters] : on_devices_)
    if (!parameters.empty()) stage_on(device, parameters);
}

void Plan::stage_on(c10::Device device, const std::vector<cuda::Parameter>& parameters) {
  const c10::InferenceMode outside(false);  // so that steps outside go on with what is made here
  cuda::Scaling scaling{.known_grad_scale = static_cast<float>(scaler_.grad_scale)};
  const auto place = [&](const at::Tensor& number, const float*& address) {
    if (!number.defined()) return;
    moved_.push_back(number.to(device, at::kFloat, /*non_blocking=*/true));
    address = moved_.back().const_data_ptr<float>();
  };
  if (scaler_.grad_scale == 0.0) place(scaler_.device_grad_scale, scaling.grad_scale);
  place(scaler_.found_inf, scaling.found_inf);
  const auto sharing = in_order_ ? cuda::Sharing::kSome : cuda::Sharing::kNone;
  found(device_steps_, device, cuda::DeviceSteps(device)).stage(parameters, scaling, sharing);
}

void Plan::sweep_on_devices() {
  for (const auto& [device, parameters] : on_devices_)
    if (!parameters.empty()) found(device_steps_, device, cuda::DeviceSteps(device)).run();
}

}  // namespace onepass
