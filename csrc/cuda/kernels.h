// The kernels of all rules as the host sees them: the types erased.
#pragma once

#include <cstdint>
#include <vector>

#include "device_layout.h"

namespace onepass::cuda {

// The kernels of a rule with a given set of states present, in one arithmetic type. Each launches
// so many thread blocks in a stream.
struct Kernels {
  using LaunchFn = void (*)(const Launch& launch, std::int64_t blocks, void* stream);
  LaunchFn prepare = nullptr;
  LaunchFn sweep = nullptr;
  LaunchFn sum_blocks = nullptr;  // this and the next: null unless the rule waits for sums
  LaunchFn finish = nullptr;
};

// By the number of Group::variant_index; float, double.
struct RuleKernels {
  const char* name;
  Kernels variants[1 << kMaxStates][2] = {};
};

// The kernels of a family of rules.h; instantiated in a file of its own for each.
template <class Family>
std::vector<RuleKernels> kernels_of_family();

// Whether this build has kernels for devices.
#if defined(ONEPASS_WITH_CUDA) || defined(ONEPASS_EMULATE_CUDA)
inline constexpr bool kHasKernels = true;
#else
inline constexpr bool kHasKernels = false;
#endif

}  // namespace onepass::cuda
