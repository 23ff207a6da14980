// The order in which squares over a parameter are added, the same for every instruction set and
// device. The elements are cut into blocks; a block has kLanes sums, which are added one after the
// other; the blocks' sums go to kFolds sums in turn, which are added pairwise.
#pragma once

#include <cstdint>

#include "../portable.h"

namespace onepass {

template <class Real>
inline constexpr std::int64_t kSumBlock = 4096 / sizeof(Real);
inline constexpr std::int64_t kLanes = 16;
inline constexpr std::int64_t kFolds = 256;
inline constexpr int kMaxSquares = 2;  // different sums that one rule waits for

template <class Real>
ONEPASS_FN std::int64_t sum_blocks_of(std::int64_t size) {
  return (size + kSumBlock<Real> - 1) / kSumBlock<Real>;
}

}  // namespace onepass
