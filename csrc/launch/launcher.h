// A step of parameters on a device: packs what the kernels read, copies it there, launches.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <vector>

#include "launch_table.h"

namespace onepass::cuda {

// Raises unless this build has kernels for the device.
void check_supported(c10::Device device);

// Raises unless kernels can read a number from the tensor, whose value is not waited for. `name`
// and `where` say in the error which it is.
void check_number_on_device(const at::TensorBase& number, const std::string& name,
                            const std::string& where);

// What a gradient scaler asks: numbers on the device, or null; or a scale that the host knows, or
// 0.
struct Scaling {
  const float *grad_scale = nullptr, *found_inf = nullptr;
  float known_grad_scale = 0.0f;
};

// Whether parameters of a step share memory, so that one must go after the other.
enum class Sharing { kNone, kSome };

// The steps on one device, and the memory that they work in. No step waits for the device.
class Launcher {
 public:
  explicit Launcher(c10::Device device) : device_(device) {}

  // Copies to the device what the kernels of one step read. What can fail fails here.
  void stage(std::span<const Parameter> parameters, const Scaling& scaling, Sharing sharing);
  // Launches the kernels of that step.
  void run();

 private:
  // What the kernels of one launch read, on the host and on the device.
  struct Memory {
    std::vector<std::byte> staged;  // as it was copied last
    at::Tensor device;
    std::optional<c10::Stream> stream;  // the one it was copied in
  };

  // A launch that is ready to go.
  struct Ready {
    const Kernels* kernels;
    Launch launch;
    std::int64_t chunks, sum_chunks;
  };

  void stage_launch(std::span<const Parameter> parameters, const Kernels& kernels,
                    const Scaling& scaling);
  std::byte* upload(const Tables& tables);
  c10::Stream stream() const;
  void* stream_handle() const;

  c10::Device device_;
  std::vector<Ready> ready_;
  std::vector<Memory> memories_;   // of the launches, in their order
  std::vector<at::Tensor> moved_;  // numbers of other devices, for the launches of one step
  std::vector<std::byte> staging_;
};

}  // namespace onepass::cuda
