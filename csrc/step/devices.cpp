#include "devices.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "../launch/device.h"

namespace onepass {
namespace {

// The number of the step that is to come, where the host counts.
double next_step(const Entry& entry) {
  if (entry.tensors.step == nullptr) return entry.tensors.is_new ? 1.0 : 2.0;
  return entry.count != nullptr ? *entry.count + 1.0f : next_count(*entry.tensors.step);
}

}  // namespace

std::vector<ByteRange> numbers_on_devices(std::span<const Entry> entries) {
  std::vector<ByteRange> ranges;
  const auto add = [&ranges](const at::TensorBase* number) {
    if (number == nullptr || !cuda::number_on_device(*number)) return;
    const auto* const begin = static_cast<const std::byte*>(number->const_data_ptr());
    ranges.push_back({begin, begin + number->itemsize()});
  };
  for (const Entry& entry : entries) {
    if (!entry.on_device) continue;
    add(entry.tensors.step);
    for (const at::TensorBase* number : entry.tensors.numbers) add(number);
  }
  return ranges;
}

DevicePlans::OnDevice& DevicePlans::on(c10::Device device) {
  const auto found = std::ranges::find(devices_, device, &OnDevice::device);
  return found != devices_.end() ? *found
                                 : devices_.emplace_back(device, cuda::Launcher(device),
                                                         std::vector<cuda::Parameter>{});
}

// Sorts the parameters on devices by device, with their numbers.
void DevicePlans::sort(std::span<const Entry> entries, std::span<const Task> tasks,
                       std::span<const Group> groups) {
  for (OnDevice& on_device : devices_) on_device.parameters.clear();
  for (std::size_t k = 0; k < entries.size(); ++k) {
    const Entry& entry = entries[k];
    if (!entry.on_device) continue;
    const Tensors& tensors = entry.tensors;
    const Group& group = groups[entry.group];
    cuda::Parameter& parameter =
        on(tensors.param->device()).parameters.emplace_back(&tasks[k], &group);
    if (tensors.step != nullptr && cuda::number_on_device(*tensors.step)) {
      parameter.step = cuda::scalar_of(*tensors.step);
    } else {
      parameter.step.value = next_step(entry);
    }
    for (std::size_t n = 0; n < group.algorithm->numbers.size(); ++n)
      parameter.numbers[n] = cuda::scalar_of(*tensors.numbers[n]);
  }
}

void DevicePlans::stage(std::span<const Entry> entries, std::span<const Task> tasks,
                        std::span<const Group> groups, const Scaler& scaler,
                        cuda::Sharing sharing) {
  sort(entries, tasks, groups);
  for (OnDevice& on_device : devices_)
    if (!on_device.parameters.empty()) stage_on(on_device, scaler, sharing);
}

void DevicePlans::stage_on(OnDevice& on_device, const Scaler& scaler, cuda::Sharing sharing) {
  const c10::InferenceMode outside(false);  // so that steps outside go on with what is made here
  cuda::Scaling scaling{.known_grad_scale = static_cast<float>(scaler.grad_scale)};
  const auto place = [&](const at::Tensor& number, const float*& address) {
    if (!number.defined()) return;
    moved_.push_back(number.to(on_device.device, at::kFloat, /*non_blocking=*/true));
    address = moved_.back().const_data_ptr<float>();
  };
  if (scaler.grad_scale == 0.0) place(scaler.device_grad_scale, scaling.grad_scale);
  place(scaler.found_inf, scaling.found_inf);
  on_device.launcher.stage(on_device.parameters, scaling, sharing);
}

void DevicePlans::run() {
  for (OnDevice& on_device : devices_)
    if (!on_device.parameters.empty()) on_device.launcher.run();
}

}  // namespace onepass
