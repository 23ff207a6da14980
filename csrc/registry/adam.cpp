#include "instantiate.h"

namespace onepass {

template std::vector<Algorithm> algorithms_of<AdamFamily>();

}  // namespace onepass
