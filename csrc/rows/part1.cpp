#include "rows.h"

namespace onepass {

template <>
std::vector<Algorithm> rows_of_part<1>() {
  return rows_of<1>();
}

}  // namespace onepass
