// What the kernels of one launch read: one table of plain records, packed here.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "../cuda/device_layout.h"
#include "../cuda/kernels.h"
#include "../sweep/task.h"

namespace onepass {
struct Group;
}

namespace onepass::cuda {

// A number for a kernel, from a tensor with one element on its device, of a type that kernels read.
HostOrDeviceScalar scalar_of(const at::TensorBase& number);

// One parameter in one step, already validated.
struct Parameter {
  const Task* task;
  const Group* group;
  HostOrDeviceScalar step = {};
  HostOrDeviceScalar numbers[kMaxNumbers] = {};
};

constexpr std::int64_t divided_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// What one launch reads and works in: where each table stands, in bytes from the start.
struct Tables {
  std::span<const Parameter> parameters;
  const Kernels& kernels;
  std::int64_t chunk_size = 0, chunks = 0, sum_chunks = 0, blocks = 0, layout_words = 0;
  std::size_t hyper_count = 0;
  std::size_t tasks = 0, hypers = 0, layouts = 0, chunk_table = 0, copied = 0;
  std::size_t coefficients = 0, block_sums = 0, size = 0;

  Tables(std::span<const Parameter> parameters, const Kernels& kernels);

  // Writes what is copied to the device. `moved` keeps numbers that were brought there.
  void pack(std::vector<std::byte>& staging, c10::Device device,
            std::vector<at::Tensor>& moved) const;
};

}  // namespace onepass::cuda
