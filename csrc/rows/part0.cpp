#include "rows.h"

namespace onepass {

template <>
std::vector<Algorithm> rows_of_part<0>() {
  return rows_of<0>();
}

}  // namespace onepass
