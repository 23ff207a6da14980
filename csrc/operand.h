// From a tensor to plain memory: the checks that stand between what a user may pass or load and the
// loops, which trust their operands blindly.
#pragma once

#include <ATen/core/TensorBase.h>

#include <cstddef>
#include <string>

#include "sweep/sweep.h"
#include "tensor/torch_compat.h"

namespace onepass {

// Says in error messages which parameter is meant.
struct Names {
  virtual std::string parameter(int group, int index) const = 0;

 protected:
  ~Names() = default;
};

// One tensor of one parameter, for error messages.
struct Subject {
  const Names& names;
  int group, index;
  const char* role = "the data";

  Subject about(const char* other) const { return {names, group, index, other}; }
  std::string parameter() const { return names.parameter(group, index); }
  // "exp_avg of 'layer.weight' (parameter 3 of group 0)"
  std::string text() const { return std::string(role) + " of " + parameter(); }
};

// The bytes between the first and the last element of a tensor.
struct Span {
  const std::byte *begin, *end;

  bool overlaps(const Span& other) const { return begin < other.end && other.begin < end; }
  bool operator==(const Span&) const = default;
};

enum class Access { kRead, kWrite };

// A conjugated, negated or all-zero tensor that holds its value only implicitly.
bool is_lazy(const at::TensorBase& tensor);

// Whether numbers of the tensor's type can be swept.
bool is_supported(const at::TensorBase& tensor);

inline bool is_usual(const c10::TensorImpl& tensor, c10::DispatchKeySet keys) {
  return tensor.key_set() == keys && tensor.is_contiguous();
}

// Neither a strided tensor of this library's devices nor a lazily conjugated one: a subclass, a
// functorch wrapper, a fake tensor. What runs such tensors is the torch op.
bool unusual_needs_dispatcher(const at::TensorBase& tensor);
inline bool needs_dispatcher(const at::TensorBase& tensor) {
  return tensor.key_set() != kUsualOnCpu && unusual_needs_dispatcher(tensor);
}

// Passes at one go what the checks below pass one by one, but for the type: usual tensors of one
// type and shape.
class Usual {
 public:
  explicit Usual(const at::TensorBase& param)
      : param_(*param.unsafeGetTensorImpl()),
        keys_(param_.is_cuda() ? kUsualOnCuda : kUsualOnCpu),
        sizes_(param_.sizes()),
        itemsize_(param_.itemsize()),
        bytes_(param_.numel() * itemsize_) {}

  // Whether the parameter is usual and has elements, and if so where they lie.
  bool locate_param(Span& span) const {
    return bytes_ > 0 && is_usual(param_, keys_) && locate_usual(param_, Access::kWrite, span);
  }

  // Whether a tensor is like the parameter, and if so where it lies.
  bool locate(const at::TensorBase& tensor, Access access, Span& span) const {
    const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
    if (!is_usual(impl, keys_) || impl.dtype() != param_.dtype() || !same_sizes(impl.sizes()))
      return false;
    if (keys_ == kUsualOnCuda && impl.device() != param_.device()) return false;
    return locate_usual(impl, access, span);
  }

 private:
  bool locate_usual(const c10::TensorImpl& impl, Access access, Span& span) const {
    c10::StorageImpl& storage = *impl.unsafe_storage().unsafeGetStorageImpl();
    const std::size_t offset = impl.storage_offset() * itemsize_;
    if (offset + bytes_ > storage.nbytes()) return false;
    const void* data = access == Access::kWrite ? storage.mutable_data() : storage.data();
    span.begin = static_cast<const std::byte*>(data) + offset;
    span.end = span.begin + bytes_;
    return true;
  }

  bool same_sizes(c10::IntArrayRef sizes) const {
    bool same = sizes.size() == sizes_.size();
    for (std::size_t dim = 0; same && dim < sizes.size(); ++dim) same = sizes[dim] == sizes_[dim];
    return same;
  }

  const c10::TensorImpl& param_;
  c10::DispatchKeySet keys_;
  c10::IntArrayRef sizes_;
  std::size_t itemsize_, bytes_;
};

// Raises unless this build has kernels for the tensor's device.
void check_device(const at::TensorBase& tensor, const Subject& subject);

// Raises unless the tensor is strided, on such a device, and of a supported type.
void check_kind(const at::TensorBase& tensor, const Subject& subject);

// Raises unless shape, device and realness are those of the parameter.
void check_matches(const at::TensorBase& tensor, const at::TensorBase& param,
                   const Subject& subject);

// Raises unless the tensor may be written in place: no element twice, no inference tensor outside
// inference mode.
void check_writable(const at::TensorBase& tensor, const Subject& subject);

// The stored type of a supported tensor; complex numbers count as pairs.
Float stored_type(const at::TensorBase& tensor);

// Where a tensor's elements lie; raises when its storage is too small for its sizes.
Span span_of(const at::TensorBase& tensor, Access access, const Subject& subject);

// Whether two tensors have an element in common.
bool share_elements(const at::TensorBase& a, const Span& span_a, const at::TensorBase& b,
                    const Span& span_b);

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
struct NumberMemory {
  void* data = nullptr;
  bool is_float32 = true;  // or float64

  Number read() const {
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
NumberMemory memory_of_number(const at::TensorBase& number);

}  // namespace onepass
