// Where nvcc and the emulation on the CPU differ: everything that a kernel asks of its device.
#pragma once

#ifdef ONEPASS_EMULATE_CUDA
#include "../../tests/cuda_emulation/cuda.h"
#define ONEPASS_DEVICE inline
#define ONEPASS_UNROLL
#define ONEPASS_LAUNCH(kernel, blocks, threads, stream, ...) \
  onepass::emulation::launch(#kernel, dim3(blocks), dim3(threads), [&] { (kernel)(__VA_ARGS__); })
#else
#include <cuda_runtime.h>
#define ONEPASS_DEVICE __device__ __forceinline__
#define ONEPASS_UNROLL _Pragma("unroll")
#define ONEPASS_LAUNCH(kernel, blocks, threads, stream, ...) \
  (kernel)<<<(blocks), (threads), 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#endif

namespace onepass::cuda {

// Every access to an element goes through these two, so that the emulation can count and check it.
template <class Word>
ONEPASS_DEVICE Word load(const void* address) {
#ifdef ONEPASS_EMULATE_CUDA
  return emulation::load<Word>(address);
#else
  return *static_cast<const Word*>(address);
#endif
}

template <class Word>
ONEPASS_DEVICE void store(void* address, Word word) {
#ifdef ONEPASS_EMULATE_CUDA
  emulation::store(address, word);
#else
  *static_cast<Word*>(address) = word;
#endif
}

}  // namespace onepass::cuda
