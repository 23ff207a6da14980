// A build without nvcc: it has no kernels and knows no device.
#if !defined(ONEPASS_WITH_CUDA) && !defined(ONEPASS_EMULATE_CUDA)

#include "kernels.h"
#include "runtime.h"

namespace onepass::cuda {

std::span<const RuleKernels> all_kernels() { return {}; }
std::string compiler() { return ""; }
std::string architectures() { return ""; }
void use_device(int /*device*/) {}
std::string kernels_error() { return "it has none"; }
bool is_capturing(void* /*stream*/) { return false; }
std::byte* keep_for_graph(const std::byte* /*bytes*/, std::size_t /*used*/, std::size_t /*size*/) {
  return nullptr;
}
std::string last_error() { return ""; }

}  // namespace onepass::cuda

#endif
