// What a build without nvcc has in place of the kernels: an empty table, and no device it knows.
#if !defined(ONEPASS_WITH_CUDA) && !defined(ONEPASS_EMULATE_CUDA)

#include "kernels.h"
#include "runtime.h"

namespace onepass::cuda {

template <int part>
std::vector<Row> rows_of_part() {
  return {};
}
template std::vector<Row> rows_of_part<0>();
template std::vector<Row> rows_of_part<1>();
template std::vector<Row> rows_of_part<2>();
template std::vector<Row> rows_of_part<3>();
template std::vector<Row> rows_of_part<4>();

std::string compiler() { return ""; }
void use_device(int /*device*/) {}
std::string kernels_error() { return "it has none"; }
bool is_capturing(void* /*stream*/) { return false; }
std::byte* keep_for_graph(const std::byte* /*bytes*/, std::size_t /*used*/, std::size_t /*size*/) {
  return nullptr;
}
std::string last_error() { return ""; }

}  // namespace onepass::cuda

#endif
