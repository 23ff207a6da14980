// Everything of torch that is no public interface: what may differ between the versions supported,
// 2.9 to 2.15, and what to look at first when a new one comes out. Each entry says for which
// versions it was read and tried. What belongs to autograd and Python, whose headers are large,
// stands in python_compat.h.
#pragma once

#include <ATen/core/TensorBase.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/Stream.h>
#include <c10/util/Exception.h>
#include <torch/version.h>

#include <cstdint>
#include <cstring>

#define ONEPASS_TORCH_BEFORE(major, minor) \
  (TORCH_VERSION_MAJOR * 1000 + TORCH_VERSION_MINOR < (major) * 1000 + (minor))

#if ONEPASS_TORCH_BEFORE(2, 11)
// In libtorch_cuda, which a torch for the CPU does not have: there it is null.
extern "C" [[gnu::weak]] std::int32_t aoti_torch_get_current_cuda_stream(std::int32_t device,
                                                                         void** stream);
#endif

namespace onepass {

// The cudaStream_t of the current stream of a CUDA device. From 2.11 on a stream says it itself.
inline void* handle_of_current(const c10::Stream& stream) {
#if ONEPASS_TORCH_BEFORE(2, 11)
  void* handle = nullptr;
  const bool found = aoti_torch_get_current_cuda_stream != nullptr &&
                     aoti_torch_get_current_cuda_stream(stream.device_index(), &handle) == 0;
  TORCH_CHECK(found, "torch ", TORCH_VERSION, " does not tell its current stream on ",
              stream.device());
  return handle;
#else
  return stream.native_handle();
#endif
}

// All versions: the part of a tensor's header that says where its version is counted.
[[gnu::always_inline]] inline const void* version_field(const at::TensorBase& tensor) {
  return &tensor.unsafeGetTensorImpl()->version_counter();
}

// All versions: where a tensor's version is counted, for prefetching only. A VariableVersion is a
// pointer to it and nothing else.
[[gnu::always_inline]] inline const void* version_address(const at::TensorBase& tensor) {
  const c10::VariableVersion& version = tensor.unsafeGetTensorImpl()->version_counter();
  const void* address = nullptr;
  static_assert(sizeof(version) == sizeof(address));
  // NOLINTNEXTLINE(bugprone-*): nothing is done with what is read but to prefetch it
  std::memcpy(&address, &version, sizeof(address));
  return address;
}

// All versions: the keys of the usual tensor, which is strided, on the CPU or a CUDA device, and no
// inference tensor.
inline constexpr c10::DispatchKeySet kUsualOnCpu({c10::DispatchKey::CPU,
                                                  c10::DispatchKey::AutogradCPU,
                                                  c10::DispatchKey::ADInplaceOrView,
                                                  c10::DispatchKey::AutocastCPU});
inline constexpr c10::DispatchKeySet kUsualOnCuda({c10::DispatchKey::CUDA,
                                                   c10::DispatchKey::AutogradCUDA,
                                                   c10::DispatchKey::ADInplaceOrView,
                                                   c10::DispatchKey::AutocastCUDA});

// All versions: keys that say what surrounds a call, not how a tensor lies in memory.
inline constexpr c10::DispatchKeySet kSurroundings =
    c10::autograd_dispatch_keyset | c10::autocast_dispatch_keyset |
    c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView);

// All versions: keys of tensors that hold their value only implicitly.
inline constexpr c10::DispatchKeySet kLazy({c10::DispatchKey::Conjugate, c10::DispatchKey::Negative,
                                            c10::DispatchKey::ZeroTensor});

// All versions: keys of tensors that only a call through the dispatcher can step.
inline constexpr c10::DispatchKeySet kDispatched(
    {c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot, c10::DispatchKey::Functionalize,
     c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::FuncTorchGradWrapper,
     c10::DispatchKey::BatchedNestedTensor});

}  // namespace onepass
