// From a tensor to plain memory: the checks that stand between what a user may pass or load and the
// loops, which trust their operands blindly.
#pragma once

#include <ATen/core/TensorBase.h>

#include <cstddef>

#include "../storage/floats.h"
#include "byte_range.h"
#include "subject.h"
#include "torch_compat.h"

namespace onepass {

// A strided tensor without a class of its own, on a device of this library or on meta.
bool is_plain(const at::TensorBase& tensor);

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
class FastPathCheck {
 public:
  explicit FastPathCheck(const at::TensorBase& param)
      : param_(*param.unsafeGetTensorImpl()),
        keys_(param_.is_cuda() ? kUsualOnCuda : kUsualOnCpu),
        sizes_(param_.sizes()),
        itemsize_(param_.itemsize()),
        bytes_(param_.numel() * itemsize_) {}

  // Whether the parameter is usual and has elements, and if so where they lie.
  bool locate_param(ByteRange& range) const {
    return bytes_ > 0 && is_usual(param_, keys_) &&
           locate_usual(param_, Access::kWrite, itemsize_, bytes_, range);
  }

  // Whether a tensor is like the parameter, and if so where it lies.
  bool locate(const at::TensorBase& tensor, Access access, ByteRange& range) const {
    const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
    if (!is_usual(impl, keys_) || impl.dtype() != param_.dtype() || !same_sizes(impl.sizes()))
      return false;
    if (keys_ == kUsualOnCuda && impl.device() != param_.device()) return false;
    return locate_usual(impl, access, itemsize_, bytes_, range);
  }

  // Whether a state is codes of a parameter on the CPU and has their exponents, `blocks` a row,
  // and if so where they lie.
  bool locate_codes(const at::TensorBase& codes, const at::TensorBase& exponents,
                    bool is_non_negative, std::int64_t blocks, ByteRange& range,
                    ByteRange& exponent_range) const {
    const c10::TensorImpl& impl = *codes.unsafeGetTensorImpl();
    const c10::TensorImpl& beside = *exponents.unsafeGetTensorImpl();
    const c10::IntArrayRef shape = beside.sizes();
    return keys_ == kUsualOnCpu && is_usual(impl, keys_) && is_usual(beside, keys_) &&
           impl.dtype() == (is_non_negative ? caffe2::TypeMeta::Make<std::uint8_t>()
                                            : caffe2::TypeMeta::Make<std::int8_t>()) &&
           beside.dtype() == caffe2::TypeMeta::Make<std::int8_t>() && same_sizes(impl.sizes()) &&
           sizes_.size() >= 2 && shape.size() == 2 && shape[0] == sizes_[0] && shape[1] == blocks &&
           locate_usual(impl, Access::kWrite, 1, bytes_ / itemsize_, range) &&
           locate_usual(beside, Access::kWrite, 1, shape[0] * blocks, exponent_range);
  }

 private:
  static bool locate_usual(const c10::TensorImpl& impl, Access access, std::size_t itemsize,
                           std::size_t bytes, ByteRange& range) {
    c10::StorageImpl& storage = *impl.unsafe_storage().unsafeGetStorageImpl();
    const std::size_t offset = impl.storage_offset() * itemsize;
    if (offset + bytes > storage.nbytes()) return false;
    const void* data = access == Access::kWrite ? storage.mutable_data() : storage.data();
    range.begin = static_cast<const std::byte*>(data) + offset;
    range.end = range.begin + bytes;
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

// The stored type of a supported tensor or of codes; complex numbers count as pairs.
Format stored_type(const at::TensorBase& tensor);

}  // namespace onepass
