#include "rows.cuh"

namespace onepass::cuda {

template <>
std::vector<Row> rows_of_part<4>() {
  return rows_of<4>();
}

}  // namespace onepass::cuda
