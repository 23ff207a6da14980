// A step of parameters on a device: packs what the kernels read, copies it there, launches.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <vector>

#include "../sweep/sweep.h"
#include "records.h"
#include "table.h"

namespace onepass {
struct Group;
}

namespace onepass::cuda {

// Raises unless this build has kernels for the device.
void check_supported(c10::Device device);

// A number for a kernel, from a tensor with one element on the device. Kind kNone where its type is
// none that kernels read.
Scalar scalar_of(const at::TensorBase& number);

// One parameter in one step, already validated.
struct Parameter {
  const onepass::Task* task;
  const Group* group;
  Scalar step = {};
  Scalar numbers[kMaxNumbers] = {};
};

// What a gradient scaler keeps on the device, or null.
struct Scaling {
  const float *grad_scale = nullptr, *found_inf = nullptr;
};

// Keeps the memory that its steps work in. No step waits for the device.
class DeviceSteps {
 public:
  // Takes one step of parameters of one device. Those that share memory go one after the other.
  void run(c10::Device device, std::span<const Parameter> parameters, const Scaling& scaling,
           bool in_order);

 private:
  // What the kernels of one launch read, on the host and on the device.
  struct Memory {
    std::vector<std::byte> staged;  // as it was copied last
    at::Tensor device;
    std::optional<c10::Stream> stream;  // the one it was copied in
  };

  struct Plan;
  std::byte* upload(const Plan& plan, c10::Device device, const c10::Stream& stream,
                    Memory& memory);
  void launch(const Plan& plan, const Scaling& scaling, c10::Device device, Memory& memory);

  std::vector<Memory> memories_;
  std::vector<std::byte> staging_;
};

}  // namespace onepass::cuda
