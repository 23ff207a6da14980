// Runs CUDA kernels on the CPU, for tests: what a .cuh file takes from CUDA, in plain C++.
//
// What it finds: wrong results in any order of threads and blocks; barriers that some threads never
// reach; warp collectives whose lanes do not meet; words that are not aligned; and, compiled with
// AddressSanitizer, accesses out of bounds.
//
// What it cannot find, because everything runs in turns on one host thread and memory is strong:
// races between blocks or threads that no order of turns shows, missing __threadfence, anything
// about speed, registers or occupancy. Shared memory starts as zeros and then, as on a GPU, holds
// what the last block left. AddressSanitizer forgets the edges of a thread's local arrays when the
// thread waits, those of all other memory it keeps. Use it from one host thread at a time.
//
// Kernels must not be noexcept: what is found is thrown. Compile with -U_FORTIFY_SOURCE (fibres.h).
#pragma once

#include <cstdint>
#include <functional>
#include <source_location>
#include <string>
#include <vector>

#include "memory.h"
#include "multiprocessor.h"
#include "runtime.h"
#include "types.h"

// NOLINTBEGIN(bugprone-reserved-identifier): CUDA's own names.
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static  // one block at a time

inline const uint3& threadIdx = onepass::emulation::place.thread;
inline const uint3& blockIdx = onepass::emulation::place.block;
inline const dim3& blockDim = onepass::emulation::place.block_size;
inline const dim3& gridDim = onepass::emulation::place.grid_size;

inline void __syncthreads(std::source_location site = std::source_location::current()) {
  onepass::emulation::multiprocessor().synchronize_block(site);
}

inline void __syncwarp(unsigned mask = 0xffffffffU,
                       std::source_location site = std::source_location::current()) {
  auto& multiprocessor = onepass::emulation::multiprocessor();
  multiprocessor.exchange({"__syncwarp", site, mask, multiprocessor.lane("__syncwarp")}, 0);
}

template <class Value>
Value __shfl_sync(unsigned mask, Value value, int source,
                  std::source_location site = std::source_location::current()) {
  const unsigned lane = static_cast<unsigned>(source) % onepass::emulation::kWarpSize;
  return onepass::emulation::multiprocessor().exchange({"__shfl_sync", site, mask, lane}, value);
}

// A lane without a lane so far above it gets its own value.
template <class Value>
Value __shfl_down_sync(unsigned mask, Value value, unsigned delta,
                       std::source_location site = std::source_location::current()) {
  auto& multiprocessor = onepass::emulation::multiprocessor();
  const unsigned lane = multiprocessor.lane("__shfl_down_sync");
  const unsigned source = lane + delta < onepass::emulation::kWarpSize ? lane + delta : lane;
  return multiprocessor.exchange({"__shfl_down_sync", site, mask, source}, value);
}

template <class Word>
Word __ldg(const Word* address, std::source_location site = std::source_location::current()) {
  return onepass::emulation::load<Word>(address, site);
}
// NOLINTEND(bugprone-reserved-identifier)

namespace onepass::emulation {

// The kernels that ran, in order; tests clear it.
inline std::vector<std::string> launches;

// Whether launches run their kernels. Off, a launch costs nearly nothing: to measure its host.
inline bool running = true;

// Calls `body`, which calls the kernel, as every thread of the grid. As in CUDA, a grid that cannot
// be launched is told by cudaGetLastError. What a thread throws is thrown as std::runtime_error.
inline void launch(const char* kernel, dim3 grid, dim3 block, const std::function<void()>& body) {
  const bool grid_fits = grid.x > 0 && grid.x < 1U << 31 && grid.y > 0 && grid.y < 1U << 16 &&
                         grid.z > 0 && grid.z < 1U << 16;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (!grid_fits || block.z > 64 || threads == 0 || threads > kMaxThreads) {
    reported(cudaErrorInvalidConfiguration);
    return;
  }
  if (!running) return;
  launches.emplace_back(kernel);
  multiprocessor().run(kernel, grid, block, body);
}

}  // namespace onepass::emulation
