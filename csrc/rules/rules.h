// The table of algorithms. Adding one here gives it its loops, its torch op and its fake kernel.
#pragma once

#include "adam.h"

namespace onepass {

template <class... Rule>
struct RuleList {};

using Rules = RuleList<Adam, AdamW>;

}  // namespace onepass
