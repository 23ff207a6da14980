// The kernels of all rules as the host sees them: the types erased.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "records.h"

namespace onepass::cuda {

// The kernels of a rule with a given set of states present, in one arithmetic type. Each launches
// so many thread blocks in a stream.
struct Kernels {
  using Launcher = void (*)(const Launch& launch, std::int64_t blocks, void* stream);
  Launcher prepare = nullptr;
  Launcher sweep = nullptr;
  Launcher sum_blocks = nullptr;  // this and the next: null unless the rule waits for sums
  Launcher finish = nullptr;
};

struct Row {
  const char* name;
  Kernels variants[1 << kMaxStates][2] =
      {};  // by the number of Group::variant_index; float, double
};

// The table in parts, each compiled on its own.
template <int part>
std::vector<Row> rows_of_part();

// Null where this build has no kernels for CUDA.
const Row* find_row(std::string_view name);

}  // namespace onepass::cuda
