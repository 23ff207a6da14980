#include "rows.h"

namespace onepass {

template <>
std::vector<Algorithm> rows_of_part<2>() {
  return rows_of<2>();
}

}  // namespace onepass
