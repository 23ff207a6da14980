#include "instantiate.cuh"

namespace onepass::cuda {

template std::vector<RuleKernels> kernels_of_family<Recent>();

}  // namespace onepass::cuda
