#include "rows.h"

namespace onepass {

template <>
std::vector<Algorithm> rows_of_part<4>() {
  return rows_of<4>();
}

}  // namespace onepass
