// Kernels as they are written for a GPU, for the checks of the emulation.
#pragma once

#include <cstdint>

#include "../csrc/emulation/cuda.h"

namespace {

__global__ void add(const float* a, const float* b, float* sum, std::int64_t size) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < size)
    onepass::emulation::store<float>(sum + i,
                                     onepass::emulation::load<float>(a + i) + __ldg(b + i));
}

template <class Real>
__device__ __forceinline__ Real sum_of_warp(Real value) {
  for (unsigned delta = 16; delta > 0; delta /= 2)
    value += __shfl_down_sync(0xffffffffU, value, delta);
  return value;
}

template <class Real>
__global__ void __launch_bounds__(256) sum_of_block(const Real* values, Real* sums) {
  __shared__ Real of_warps[8];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Real sum = sum_of_warp(values[blockIdx.x * blockDim.x + threadIdx.x]);
  if (lane == 0) of_warps[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    const Real total = sum_of_warp(lane < 8 ? of_warps[lane] : Real(0));
    if (lane == 0) sums[blockIdx.x] = total;
  }
}

__global__ void reverse(const int* values, int* reversed, bool with_barrier) {
  __shared__ int all[64];
  all[threadIdx.x] = values[threadIdx.x];
  if (with_barrier) __syncthreads();
  reversed[threadIdx.x] = all[63 - threadIdx.x];
}

}  // namespace
