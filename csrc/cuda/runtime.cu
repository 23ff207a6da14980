#include "../rules/sgd.h"
#include "kernels.cuh"
#include "runtime.h"

namespace onepass::cuda {
namespace {

// Lets this thread do what a capture forbids, such as taking memory, until it ends.
class Relaxed {
 public:
  Relaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  Relaxed(const Relaxed&) = delete;
  Relaxed& operator=(const Relaxed&) = delete;
  ~Relaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace

std::string compiler() {
#ifdef ONEPASS_EMULATE_CUDA
  return "none: the kernels run on the CPU, for tests";
#else
  return "nvcc " + std::to_string(__CUDACC_VER_MAJOR__) + "." +
         std::to_string(__CUDACC_VER_MINOR__) + "." + std::to_string(__CUDACC_VER_BUILD__);
#endif
}

std::string architectures() {
#ifdef ONEPASS_CUDA_ARCHS
  return ONEPASS_CUDA_ARCHS;
#else
  return "";
#endif
}

void use_device(int device) { cudaSetDevice(device); }

std::string kernels_error() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, prepare<SGD, 0, float>);
  cudaGetLastError();  // it is told here
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

bool is_capturing(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status);
  return status != cudaStreamCaptureStatusNone;
}

std::byte* keep_for_graph(const std::byte* bytes, std::size_t used, std::size_t size) {
  const Relaxed relaxed;
  void* memory = nullptr;
  cudaStream_t stream = nullptr;  // of its own: the current one is capturing
  if (cudaMalloc(&memory, size) != cudaSuccess) return nullptr;
  if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) return nullptr;
  const bool copied =
      cudaMemcpyAsync(memory, bytes, used, cudaMemcpyHostToDevice, stream) == cudaSuccess &&
      cudaStreamSynchronize(stream) == cudaSuccess;
  cudaStreamDestroy(stream);
  return copied ? static_cast<std::byte*>(memory) : nullptr;
}

std::string last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace onepass::cuda
