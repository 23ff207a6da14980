// The parameters of a step that lie on devices, handed to the launchers of their kernels.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "../launch/launcher.h"
#include "entry.h"
#include "group.h"

namespace onepass {

// Memory of numbers on devices, which threads of a device would change at the same time.
std::vector<ByteRange> numbers_on_devices(std::span<const Entry> entries);

class DevicePlans {
 public:
  // Copies to the devices what their kernels read. What can fail fails here.
  void stage(std::span<const Entry> entries, std::span<const Task> tasks,
             std::span<const Group> groups, const Scaler& scaler, cuda::Sharing sharing);
  // Launches the kernels, without waiting for them.
  void run();
  void clear() { moved_.clear(); }

 private:
  // Devices are few.
  struct OnDevice {
    c10::Device device;
    cuda::Launcher launcher;
    std::vector<cuda::Parameter> parameters;
  };

  OnDevice& on(c10::Device device);
  void sort(std::span<const Entry> entries, std::span<const Task> tasks,
            std::span<const Group> groups);
  void stage_on(OnDevice& on_device, const Scaler& scaler, cuda::Sharing sharing);

  std::vector<OnDevice> devices_;
  std::vector<at::Tensor> moved_;  // what the scaler set, on the devices of parameters
};

}  // namespace onepass
