// From a tensor to plain memory: the checks that stand between what a user may pass or load and the
// loops, which trust their operands blindly.
#pragma once

#include <ATen/core/TensorBase.h>

#include <cstddef>
#include <string>

#include "sweep/sweep.h"

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

// Neither a strided tensor of this library's devices nor a lazily conjugated one: a subclass, a
// functorch wrapper, a fake tensor. What runs such tensors is the torch op.
bool needs_dispatcher(const at::TensorBase& tensor);

// A conjugated, negated or all-zero tensor that holds its value only implicitly.
bool is_lazy(const at::TensorBase& tensor);

// The usual tensors pass all checks below at once. Usual is: strided, on the CPU, no inference tensor,
// contiguous.
inline bool is_usual(const at::TensorBase& tensor) {
  constexpr c10::DispatchKeySet kKeys(
      {c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU, c10::DispatchKey::ADInplaceOrView,
       c10::DispatchKey::AutocastCPU});
  const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
  return impl.key_set() == kKeys && impl.is_contiguous();
}

// The span of a usual tensor that holds `bytes` bytes, or an empty one where its storage is smaller.
inline Span usual_span(const at::TensorBase& tensor, std::size_t bytes, Access access) {
  const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
  c10::StorageImpl& storage = *impl.unsafe_storage().unsafeGetStorageImpl();
  const std::size_t offset = impl.storage_offset() * impl.itemsize();
  if (offset + bytes > storage.nbytes()) return {nullptr, nullptr};
  const void* data = access == Access::kWrite ? storage.mutable_data() : storage.data();
  const auto* begin = static_cast<const std::byte*>(data) + offset;
  return {begin, begin + bytes};
}

// Whether numbers of the tensor's type can be swept.
bool is_supported(const at::TensorBase& tensor);

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

// Raises unless the tensor can count steps: one element on the CPU, a whole number from 0 up.
void check_step(const at::TensorBase& step, const Subject& subject);

// Adds one to a checked step tensor and returns the new value. A float32 step stays at 2^24, as in
// torch.
double count_step(const at::TensorBase& step);

}  // namespace onepass
