// Tensors that hold one number of a parameter's state: its step count, and the numbers of a rule.
#pragma once

#include <ATen/core/TensorBase.h>

#include "../rules/rule.h"
#include "checks.h"

namespace onepass {

// Whether a tensor holds one float32 number and nothing is unusual about it.
inline bool is_usual_count(const at::TensorBase& step) {
  const c10::TensorImpl& impl = *step.unsafeGetTensorImpl();
  return is_usual(impl, impl.is_cuda() ? kUsualOnCuda : kUsualOnCpu) &&
         impl.dtype() == caffe2::TypeMeta::Make<float>() && impl.numel() == 1 &&
         impl.storage_offset() == 0 &&
         impl.unsafe_storage().unsafeGetStorageImpl()->nbytes() >= sizeof(float);
}

// Where a usual step tensor of the CPU counts, within what float32 counts exactly; else null.
inline float* usual_count(const at::TensorBase& step) {
  if (step.key_set() != kUsualOnCpu || !is_usual_count(step)) return nullptr;
  c10::StorageImpl& storage = *step.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
  auto* const count = static_cast<float*>(storage.mutable_data());
  constexpr float kLast = 16777216.0f;  // 2^24: from here on floats skip numbers
  const bool whole =
      *count >= 0.0f && *count < kLast && *count == static_cast<float>(static_cast<int>(*count));
  return whole ? count : nullptr;
}

// Raises unless the tensor can count the parameter's steps: one element, a whole number from 0 up.
// Its value is looked at on the CPU only: a step does not wait for a device.
void check_step(const at::TensorBase& step, const at::TensorBase& param, const Subject& subject);

// What count_step() will return.
double next_count(const at::TensorBase& step);

// Adds one to a checked step tensor and returns the new value. A float32 step stays at 2^24, as in
// torch.
double count_step(const at::TensorBase& step);

// Raises unless the tensor is a number of the parameter's state: one finite element, beside the
// parameter.
void check_number(const at::TensorBase& number, const at::TensorBase& param,
                  const Subject& subject);

// Where a checked number of the CPU lies. It stays there as long as its storage is held, whatever
// other threads do to the tensor.
struct StateNumberMemory {
  void* data = nullptr;
  bool is_float32 = true;  // or float64

  StateNumber read() const {
    return {is_float32 ? *static_cast<const float*>(data) : *static_cast<const double*>(data),
            is_float32};
  }
  void write(double value) const {
    if (is_float32) {
      *static_cast<float*>(data) = static_cast<float>(value);
    } else {
      *static_cast<double*>(data) = value;
    }
  }
};
StateNumberMemory memory_of_number(const at::TensorBase& number);

}  // namespace onepass
