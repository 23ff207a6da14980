// The kernels of all rules as the host sees them: the types erased.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "../portable.h"
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

// Of all rules; empty where this build has none.
ONEPASS_API std::span<const RuleKernels> all_kernels();

}  // namespace onepass::cuda
