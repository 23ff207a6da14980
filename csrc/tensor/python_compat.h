// The rest of torch_compat.h: what autograd and Python's tensors are made of.
#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/python_variable.h>

namespace onepass {

// All versions: the gradient of a leaf, read without the calls that Tensor::grad() makes.
inline const at::Tensor& gradient_of(const at::Tensor& param) {
  static const at::Tensor none;
  const auto* const meta =
      static_cast<torch::autograd::AutogradMeta*>(param.unsafeGetTensorImpl()->autograd_meta());
  return meta == nullptr ? none : meta->grad_;
}

// All versions: whether calls go to a mode first (fake tensors, functorch) and memory must not be
// touched directly.
inline bool dispatch_mode_is_active() {
  return c10::impl::TorchDispatchModeTLS::any_modes_set() ||
         c10::impl::tls_local_dispatch_key_set().included_.has(
             c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

}  // namespace onepass
