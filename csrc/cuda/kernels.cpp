// The table of kernels.
#if defined(ONEPASS_WITH_CUDA) || defined(ONEPASS_EMULATE_CUDA)

#include "kernels.h"

#include <algorithm>
#include <iterator>

#include "../rules/rules.h"

namespace onepass::cuda {
namespace {

template <class... Family>
std::vector<RuleKernels> kernels_of_all(FamilyList<Family...> /*all*/) {
  std::vector<RuleKernels> kernels;
  (std::ranges::move(kernels_of_family<Family>(), std::back_inserter(kernels)), ...);
  return kernels;
}

}  // namespace

std::span<const RuleKernels> all_kernels() {
  static const std::vector<RuleKernels> all = kernels_of_all(Families{});
  return all;
}

}  // namespace onepass::cuda

#endif
