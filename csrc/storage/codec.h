// Moves elements between memory, in any stored type and with any strides, and tiles of arithmetic
// type. What a float16 parameter, a transposed gradient or an unusual mix of types goes through.
#pragma once

#include <cstdint>

#include "floats.h"
#include "rounding.h"

namespace onepass {

// `size` elements that lie `stride` elements apart, the tile they go to or come from and, where
// they are rounded stochastically, their hashes.
template <class Real>
struct StridedRun {
  void* memory;
  std::int64_t stride;
  Real* tile;
  std::int64_t size;
  const std::uint32_t* hashes = nullptr;
};

template <class Real, class Stored>
ONEPASS_FN void decode_run(const StridedRun<Real>& run) {
  const auto* const memory = static_cast<const Stored*>(run.memory);
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < run.size; ++i)
    run.tile[i] = static_cast<Real>(decode(memory[i * run.stride]));
}

template <class Real, class Stored>
ONEPASS_FN void encode_run(const StridedRun<Real>& run) {
  auto* const memory = static_cast<Stored*>(run.memory);
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < run.size; ++i) encode(run.tile[i], memory[i * run.stride]);
}

template <class Real, class Stored, Rounding rounding>
ONEPASS_FN void encode_run_randomly(const StridedRun<Real>& run) {
  auto* const memory = static_cast<Stored*>(run.memory);
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < run.size; ++i)
    encode_randomly(static_cast<float>(run.tile[i]), random_bits<rounding>(run.hashes[i]),
                    memory[i * run.stride]);
}

}  // namespace onepass
