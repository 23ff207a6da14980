// How one number lies in memory. A stored type is loaded into the arithmetic type (float or double)
// and stored back with one rounding, to nearest even. Written with integers and + alone, so that
// every instruction set and device gives the same bits and the compiler vectorises the loop around.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../portable.h"

namespace onepass {

// Floats, each by itself, and codes of 8 bits in blocks (blocks.h), of signed numbers and of those
// that are never negative.
enum class Format : std::uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16, kInt8, kUInt8 };
inline constexpr int kFloatFormats = 4;

ONEPASS_FN constexpr bool has_blocks(Format type) {
  return type == Format::kInt8 || type == Format::kUInt8;
}

ONEPASS_FN constexpr int bytes_of_float(Format type) {
  return type == Format::kFloat64 ? 8 : type == Format::kFloat32 ? 4 : 2;
}
ONEPASS_FN constexpr int bytes_of(Format type) {
  return has_blocks(type) ? 1 : bytes_of_float(type);
}

struct BFloat16 {
  std::uint16_t bits;
};
struct Half {
  std::uint16_t bits;
};

// The arithmetic of a stored type: double for double, float for all narrower ones.
template <class Stored>
using RealOf = std::conditional_t<std::is_same_v<Stored, double>, double, float>;

ONEPASS_FN std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

ONEPASS_FN float float_of(std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

ONEPASS_FN float decode(float x) { return x; }
ONEPASS_FN double decode(double x) { return x; }
ONEPASS_FN float decode(BFloat16 x) { return float_of(static_cast<std::uint32_t>(x.bits) << 16); }

// Sign 1, exponent 5 (bias 15), fraction 10. The exponent is moved to float's bias of 127;
// subnormals are made by a subtraction that normalises them.
ONEPASS_FN float decode(Half x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = static_cast<std::uint32_t>(x.bits & 0x7fffu) << 13;
  const std::uint32_t smallest_normal = 113u << 23;  // 2^-14
  const std::uint32_t normal = magnitude + (112u << 23);
  const std::uint32_t infinite_or_nan = magnitude + (224u << 23);
  const std::uint32_t subnormal =
      bits_of(float_of(magnitude + smallest_normal) - float_of(smallest_normal));
  const std::uint32_t finite = magnitude < (1u << 23) ? subnormal : normal;
  return float_of(sign | (magnitude >= (31u << 23) ? infinite_or_nan : finite));
}

ONEPASS_FN void encode(float x, float& out) { out = x; }
ONEPASS_FN void encode(double x, double& out) { out = x; }
ONEPASS_FN void encode(double x, float& out) { out = static_cast<float>(x); }
ONEPASS_FN void encode(float x, double& out) { out = x; }

ONEPASS_FN void encode(float x, BFloat16& out) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<std::uint16_t>(x != x ? 0x7fc0u : rounded);
}

// Numbers under 2^-14 are rounded by an addition of 0.5, whose last place is the smallest
// subnormal. 65520 and more carry into the exponent and become infinite.
ONEPASS_FN void encode(float x, Half& out) {
  const std::uint32_t sign = (bits_of(x) >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits_of(x) & 0x7fffffffu;
  const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const std::uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const std::uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
  const std::uint32_t bounded = magnitude >= (143u << 23) ? 0x7c00u : finite;
  out.bits = static_cast<std::uint16_t>(sign | (x != x ? 0x7e00u : bounded));
}

// The 16-bit types go through float: a value between two of their halves may round twice, as in
// torch.
ONEPASS_FN void encode(double x, BFloat16& out) { encode(static_cast<float>(x), out); }
ONEPASS_FN void encode(double x, Half& out) { encode(static_cast<float>(x), out); }

}  // namespace onepass
