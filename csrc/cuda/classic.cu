#include "instantiate.cuh"

namespace onepass::cuda {

template std::vector<RuleKernels> kernels_of_family<Classic>();

}  // namespace onepass::cuda
