#include "checks.h"

#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include "../launch/launcher.h"

namespace onepass {

bool is_plain(const at::TensorBase& tensor) {
  using enum c10::DispatchKey;
  const c10::DispatchKeySet keys = tensor.key_set() - kSurroundings;
  const auto is = [keys](c10::DispatchKey key) { return keys == c10::DispatchKeySet(key); };
  return is(CPU) || is(CUDA) || is(Meta);
}

bool unusual_needs_dispatcher(const at::TensorBase& tensor) {
  return tensor.key_set().has_any(kDispatched);
}

bool is_lazy(const at::TensorBase& tensor) { return tensor.key_set().has_any(kLazy); }

bool is_supported(const at::TensorBase& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
    case at::kDouble:
    case at::kBFloat16:
    case at::kHalf:
    case at::kComplexFloat:
    case at::kComplexDouble:
      return true;
    default:
      return false;
  }
}

void check_device(const at::TensorBase& tensor, const Subject& subject) {
  const c10::Device device = tensor.device();
  TORCH_CHECK(device.is_cpu() || device.is_meta() || device.is_cuda(), subject.text(), " is on ",
              device, ", but onepass has kernels for the CPU and CUDA devices only; move the ",
              "model to one of them");
  if (device.is_cuda()) cuda::check_supported(device);
}

void check_kind(const at::TensorBase& tensor, const Subject& subject) {
  check_device(tensor, subject);
  if (is_plain(tensor) && is_supported(tensor)) return;
  TORCH_CHECK(tensor.layout() == at::kStrided, subject.text(), " has layout ", tensor.layout(),
              "; onepass takes dense (strided) tensors: call .to_dense()");
  TORCH_CHECK(is_supported(tensor), subject.text(), " has dtype ", tensor.scalar_type(),
              "; supported are float32, float64, bfloat16, float16, complex64", " and complex128");
  TORCH_CHECK(!is_lazy(tensor), subject.text(), " is a lazily conjugated or negated view, which ",
              "cannot be updated in place: call .resolve_conj().resolve_neg()");
  TORCH_CHECK(false, subject.text(), " is a tensor of a kind that onepass does not know (",
              tensor.key_set(), "); pass a plain tensor");
}

void check_matches(const at::TensorBase& tensor, const at::TensorBase& param,
                   const Subject& subject) {
  TORCH_CHECK(tensor.sizes() == param.sizes(), subject.text(), " has shape ", tensor.sizes(),
              ", but the parameter has shape ", param.sizes(), "; give it that shape");
  TORCH_CHECK(tensor.device() == param.device(), subject.text(), " is on ", tensor.device(),
              ", but the parameter is on ", param.device(), "; move it there");
  TORCH_CHECK(tensor.is_complex() == param.is_complex(), subject.text(), " has dtype ",
              tensor.scalar_type(), ", but the parameter has dtype ", param.scalar_type(),
              ": both must be real or both complex");
}

void check_writable(const at::TensorBase& tensor, const Subject& subject) {
  TORCH_CHECK(!tensor.is_inference() || c10::InferenceMode::is_enabled(), subject.text(),
              ": Inplace update to inference tensor outside InferenceMode is not allowed");
  TORCH_CHECK(
      !overlaps_itself(tensor, subject), subject.text(), " has sizes ", tensor.sizes(),
      " and strides ", tensor.strides(),
      ": some of its elements share memory, so it cannot be updated in place; call .clone()");
}

Format stored_type(const at::TensorBase& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
    case at::kComplexDouble:
      return Format::kFloat64;
    case at::kBFloat16:
      return Format::kBFloat16;
    case at::kHalf:
      return Format::kFloat16;
    case at::kChar:
      return Format::kInt8;
    case at::kByte:
      return Format::kUInt8;
    default:
      return Format::kFloat32;
  }
}

}  // namespace onepass
