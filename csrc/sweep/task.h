// What the sweep does to one parameter.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "../storage/blocks.h"
#include "loop.h"

namespace onepass {

// How the elements of an operand lie in memory, relative to the order in which a task is swept.
// `strides` is null when the operand lies in that very order without gaps.
struct Operand {
  void* data = nullptr;
  const std::int64_t* strides = nullptr;
  Format type = Format::kFloat32;
  Rounding rounding = Rounding::kNearest;  // another of types of 8 and 16 bits alone
  std::int8_t* exponents = nullptr;        // one a block, of types that have blocks
};

// What becomes of the gradients of a group before the rule sees them: sign * g / scale * clip.
struct GradTransform {
  double sign = 1.0;   // -1 where the group maximizes
  double scale = 0.0;  // of a gradient scaler, which wants g / scale written back; 0: of none
  double clip = 1.0;   // the coefficient of clipping, which leaves the gradients as they are

  bool is_scaled() const { return scale != 0.0; }
  // Whether the scale is a power of two, as those of torch's scaler are, and no factor underflows:
  // then a product with its reciprocal has the bits of the quotient.
  bool divides_exactly() const {
    int exponent = 0;
    return is_scaled() && std::frexp(scale, &exponent) == 0.5 && std::abs(exponent) < 120 &&
           !(clip / scale < 0x1p-126);
  }
  // Whether loops have to be given the quotient, as no factor has its bits.
  bool needs_quotient() const { return is_scaled() && !divides_exactly(); }
  // What loops multiply a gradient, or its quotient, by.
  double factor() const { return sign * clip / (divides_exactly() ? scale : 1.0); }
};
inline constexpr GradTransform kPlainGradient;

// The memory of one parameter in one step, already validated.
struct Task {
  std::int64_t size = 0;
  int dims = 0;                         // of the operands that have strides
  const std::int64_t* sizes = nullptr;  // outermost first
  Operand param, grad, states[kMaxStates];
  int state_count = 0;
  const GradTransform* transform = &kPlainGradient;
  Format arithmetic = Format::kFloat32;  // kFloat32 or kFloat64
  // A sparse gradient has `row_size` elements for each of `rows`, the rows of the other operands;
  // a dense one has null.
  std::int64_t row_size = 0;
  const std::int64_t* rows = nullptr;
  // The share that remains of each row after the decay that it missed, or null: of `rows`, or where
  // the gradient is dense of all rows, which catch_up() multiplies.
  const double* row_keep = nullptr;
  std::uint32_t rounding_key = 0;
  BlockRows blocks;              // of the states that have blocks
  const void* update = nullptr;  // the rule's coefficients
  Loop in_place = nullptr;       // the loop over these very types, if there is one
  Loop tiled = nullptr;          // the loop over tiles of the arithmetic type
  SumLoop sums = nullptr;        // the loop of sums over such tiles, if the rule waits for any
  // One that reads what this one writes, or null: it is swept piece by piece behind this one, while
  // the elements are in the cache. Both lie in the same order, without strides and rows.
  Task* follower = nullptr;

  bool rounds_randomly() const {
    bool randomly = param.rounding != Rounding::kNearest;
    for (int k = 0; k < state_count; ++k) randomly |= states[k].rounding != Rounding::kNearest;
    return randomly;
  }
  // The last place, up to an element, where threads and tiles may cut: no two see the same block.
  std::int64_t cut(std::int64_t place) const {
    return blocks.row_size == 0 ? place / kBlockSize * kBlockSize : blocks.start_of(place);
  }
};

}  // namespace onepass
