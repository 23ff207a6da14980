// What kernels read: plain records, the same for the host that writes them and for the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../storage/floats.h"
#include "../sweep/loop.h"

namespace onepass::cuda {

// A number that the host knows, or one in the device's memory, which the host must not wait for.
struct HostOrDeviceScalar {
  enum class Kind : std::uint8_t { kValue, kFloat32, kFloat64, kInt64 };
  union {
    double value = 0.0;
    void* data;
  };
  Kind kind = Kind::kValue;
};

// The record of one parameter in one step.
struct DeviceTask {
  void* operands[kMaxOperands];  // parameter, gradient, states
  std::int64_t size;
  // Where operands do not lie in the order of the sweep without gaps: the first word of `dims`
  // sizes, outermost first, and as many strides for each operand; else -1.
  std::int64_t layout;
  HostOrDeviceScalar step;  // the step's number, or where the device counts it
  HostOrDeviceScalar numbers[kMaxNumbers];
  std::uint32_t hypers;       // the first of the group's hyper-parameters
  std::uint32_t first_chunk;  // of the sweep, and of the sums
  std::uint32_t first_sum_chunk;
  std::int64_t first_block;  // of the sums
  int dims;
  Format types[kMaxOperands];
  bool maximize;
  bool aligned;  // all operands start where vectors may, and need no layout
};

// Where a kernel finds its work.
struct Launch {
  const DeviceTask* tasks;
  std::byte* coefficients;           // kCoefficientBytes for each task
  const HostOrDeviceScalar* hypers;  // of all groups
  const std::int64_t* layouts;
  const std::uint32_t* chunks;  // the task of each thread block
  double* block_sums;           // kMaxSquares for each block of the sums
  // What a gradient scaler has set, or null: gradients are divided by the one, and written back;
  // where the other is not 0 nothing changes.
  const float *grad_scale, *found_inf;
  float known_grad_scale;  // one that the host knows, or 0
  std::uint32_t task_count;
  std::int64_t chunk_size;
};
static_assert(sizeof(Launch) < 4096, "the space for a kernel's arguments");

// Threads of a thread block: of `sweep`, of `sum_blocks`, and of `prepare`, whose threads take long
// each. One of `finish` has as many as sums are folded to.
inline constexpr int kSweepThreads = 128, kSumThreads = 256, kWarp = 32;
inline constexpr std::int64_t kSmallestChunk = 2048, kLargestChunk = 65536;

}  // namespace onepass::cuda
