// Where a tensor's elements are stepped: by the CPU's loops or by kernels on a device.
#pragma once

#include <ATen/core/TensorBase.h>

namespace onepass::cuda {

// In a build for tests the kernels run on the CPU. There the tensors of the CPU can be taken for
// those of a device, with or without the numbers of a step (its count, lr).
enum class Emulation { kOff, kTensors, kTensorsAndNumbers };

#ifdef ONEPASS_EMULATE_CUDA
inline Emulation& emulation_in_use() {
  static Emulation chosen = Emulation::kOff;
  return chosen;
}
inline Emulation emulated() { return emulation_in_use(); }
#else
constexpr Emulation emulated() { return Emulation::kOff; }
#endif

inline bool on_device(const at::TensorBase& tensor) {
  return tensor.is_cuda() || (emulated() != Emulation::kOff && tensor.is_cpu());
}

inline bool number_on_device(const at::TensorBase& number) {
  return number.is_cuda() || (emulated() == Emulation::kTensorsAndNumbers && number.is_cpu());
}

}  // namespace onepass::cuda
