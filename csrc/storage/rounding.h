// Stochastic rounding of 8- and 16-bit numbers: up with the probability that makes the mean exact,
// so that updates too small for a stored number are not lost. What decides is a hash of the element
// and of a key, and so does not depend on threads, devices or the order of the elements.
#pragma once

#include <cstdint>

#include "floats.h"

namespace onepass {

// How an operand is rounded when it is stored. Operands of one element share a hash, of which each
// has bits of its own.
enum class Rounding : std::uint8_t {
  kNearest,
  kOfWeight,
  kOfState,
  kOfSecondState,
  kOfThirdState,
  kOfFourthState
};

// lowbias32 (Wellons 2018), a mixing of 32 bits by integer operations alone.
ONEPASS_FN std::uint32_t mixed(std::uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

// The hashes of elements from number `first` on. The odd factor keeps those of neighbours apart.
struct HashRun {
  std::uint32_t* hashes;
  std::int64_t size;
  std::uint32_t first, key;
};

ONEPASS_FN void fill_hashes(const HashRun& run) {
  ONEPASS_INDEPENDENT
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(run.size); ++i)
    run.hashes[i] = mixed((run.first + static_cast<std::uint32_t>(i)) * 0x9e3779b9u + run.key);
}

// An operand's 16 bits of its element's hash.
template <Rounding rounding>
ONEPASS_FN std::uint32_t random_bits(std::uint32_t hash) {
  if constexpr (rounding == Rounding::kOfWeight) return hash >> 16;
  if constexpr (rounding == Rounding::kOfState) return hash & 0xffffu;
  if constexpr (rounding == Rounding::kOfThirdState) return hash * 0x85ebca6bu >> 16;
  if constexpr (rounding == Rounding::kOfFourthState) return hash * 0xc2b2ae35u >> 16;
  return hash * 0x9e3779b1u >> 16;
}

ONEPASS_FN void encode_randomly(float x, std::uint32_t random, BFloat16& out) {
  const std::uint32_t rounded = (bits_of(x) + random) >> 16;
  out.bits = static_cast<std::uint16_t>(x != x ? 0x7fc0u : rounded);
}

// Of the 13 bits that a normal number loses, or of all under the smallest subnormal, 2^-24.
ONEPASS_FN void encode_randomly(float x, std::uint32_t random, Half& out) {
  const std::uint32_t sign = (bits_of(x) >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits_of(x) & 0x7fffffffu;
  const std::uint32_t random13 = random >> 3;
  const std::uint32_t normal = (magnitude - (112u << 23) + random13) >> 13;
  const bool is_subnormal = magnitude < (113u << 23);
  const float scaled = is_subnormal ? float_of(magnitude) * 0x1p37f : 0.0f;  // by 2^24 and 2^13
  const std::uint32_t subnormal =
      (static_cast<std::uint32_t>(static_cast<std::int32_t>(scaled)) + random13) >> 13;
  const std::uint32_t finite = is_subnormal ? subnormal : normal;
  const std::uint32_t bounded = magnitude >= (143u << 23) ? 0x7c00u : finite;
  out.bits = static_cast<std::uint16_t>(sign | (x != x ? 0x7e00u : bounded));
}

// The key of one parameter in one step. SplitMix64 (Steele et al. 2014) keeps the keys of
// neighbours apart.
inline std::uint32_t rounding_key(int group, int index, double step) {
  std::uint64_t x = (static_cast<std::uint64_t>(group) << 32 | static_cast<std::uint32_t>(index)) *
                        0x9e3779b97f4a7c15u +
                    static_cast<std::uint64_t>(step);
  x = (x + 0x9e3779b97f4a7c15u);
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return static_cast<std::uint32_t>(x ^ x >> 31);
}

}  // namespace onepass
