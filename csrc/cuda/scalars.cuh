// Single numbers that kernels read and write: step counts, hyper-parameters, numbers of a state.
#pragma once

#include "../rules/rule.h"
#include "device_layout.h"
#include "portable.cuh"

namespace onepass::cuda {

ONEPASS_DEVICE double read(const HostOrDeviceScalar& scalar) {
  switch (scalar.kind) {
    case HostOrDeviceScalar::Kind::kFloat32:
      return *static_cast<const float*>(scalar.data);
    case HostOrDeviceScalar::Kind::kFloat64:
      return *static_cast<const double*>(scalar.data);
    case HostOrDeviceScalar::Kind::kInt64:
      return static_cast<double>(*static_cast<const std::int64_t*>(scalar.data));
    default:
      return scalar.value;
  }
}

// Adds one to a number on the device and returns the sum, rounded to its type as on the host.
ONEPASS_DEVICE double count(const HostOrDeviceScalar& step) {
  switch (step.kind) {
    case HostOrDeviceScalar::Kind::kFloat32:
      return *static_cast<float*>(step.data) += 1.0f;
    case HostOrDeviceScalar::Kind::kFloat64:
      return *static_cast<double*>(step.data) += 1.0;
    case HostOrDeviceScalar::Kind::kInt64:
      return static_cast<double>(*static_cast<std::int64_t*>(step.data) += 1);
    default:
      return step.value;
  }
}

ONEPASS_DEVICE void read_numbers(const DeviceTask& task, int count, StateNumber* numbers) {
  for (int k = 0; k < count; ++k)
    numbers[k] = {read(task.numbers[k]),
                  task.numbers[k].kind == HostOrDeviceScalar::Kind::kFloat32};
}

ONEPASS_DEVICE void write_numbers(const DeviceTask& task, int count, const StateNumber* numbers) {
  for (int k = 0; k < count; ++k) {
    if (numbers[k].is_float32) {
      *static_cast<float*>(task.numbers[k].data) = static_cast<float>(numbers[k].value);
    } else {
      *static_cast<double*>(task.numbers[k].data) = numbers[k].value;
    }
  }
}

}  // namespace onepass::cuda
