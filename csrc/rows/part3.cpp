#include "rows.h"

namespace onepass {

template <>
std::vector<Algorithm> rows_of_part<3>() {
  return rows_of<3>();
}

}  // namespace onepass
