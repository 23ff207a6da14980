// The calls of CUDA's runtime that a launcher makes, with CUDA's names and numbers. What a machine
// without a GPU cannot do by itself, failing or capturing, a test sets in `emulation::runtime`.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

using cudaStream_t = struct CUstream_st*;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorLaunchFailure = 719,
};

enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2,
};

enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2,
};

enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1 };

inline constexpr unsigned cudaStreamNonBlocking = 1;

struct cudaFuncAttributes {
  std::size_t sharedSizeBytes;
  std::size_t constSizeBytes;
  std::size_t localSizeBytes;
  int maxThreadsPerBlock;
  int numRegs;
  int ptxVersion;
  int binaryVersion;
};

namespace onepass::emulation {

inline constexpr unsigned kMaxThreads = 1024;  // in a block

struct Runtime {
  cudaError_t last_error = cudaSuccess;      // what cudaGetLastError says once
  cudaError_t function_error = cudaSuccess;  // what cudaFuncGetAttributes says of every kernel
  cudaStreamCaptureStatus capture_status = cudaStreamCaptureStatusNone;
  int device_count = 1;
  int device = 0;
};
inline Runtime runtime;

// As in CUDA, a call that fails says so itself and leaves its error to cudaGetLastError as well.
inline cudaError_t reported(cudaError_t error) {
  if (error != cudaSuccess) runtime.last_error = error;
  return error;
}

}  // namespace onepass::emulation

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = onepass::emulation::runtime.last_error;
  onepass::emulation::runtime.last_error = cudaSuccess;
  return error;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDeviceFunction:
      return "invalid device function";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for execution on the device";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
  }
  return "unrecognized error code";
}

inline cudaError_t cudaSetDevice(int device) {
  auto& runtime = onepass::emulation::runtime;
  if (device < 0 || device >= runtime.device_count)
    return onepass::emulation::reported(cudaErrorInvalidDevice);
  runtime.device = device;
  return cudaSuccess;
}

inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = onepass::emulation::runtime.capture_status;
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel* kernel) {
  if (kernel == nullptr) return onepass::emulation::reported(cudaErrorInvalidDeviceFunction);
  *attributes = {};
  attributes->maxThreadsPerBlock = onepass::emulation::kMaxThreads;
  return onepass::emulation::reported(onepass::emulation::runtime.function_error);
}

inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  static cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
  std::swap(current, *mode);
  return cudaSuccess;
}

inline cudaError_t cudaMalloc(void** memory, std::size_t size) {
  *memory = std::malloc(size);
  return *memory == nullptr ? onepass::emulation::reported(cudaErrorMemoryAllocation) : cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind,
                                   cudaStream_t) {
  if (size > 0) std::memcpy(to, from, size);
  return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
