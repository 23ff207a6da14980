// Numbers of 8 bits in blocks of 64 that share an exponent: a code c of a block with the exponent e
// stands for D(c) 2^e, with D from 2^-11 (signed) or 2^-23 (never negative) up to 2.
//
// Encoding takes a square root (signed) or a fourth root (never negative), decoding its inverse.
// The bits of a float, taken as an integer, are a piecewise linear logarithm (Mitchell 1962); half
// or a quarter of them is the logarithm of that root. So octaves from the largest number down have
// 32, 32, 16, 16, 8, 8, 4, 4, 2, 2, 1 and 1 codes of each sign where numbers are signed; where they
// are never negative, four times 32, four times 16, and so on down to four times 1. Within an
// octave codes lie equally far apart, so that adding a uniform number to the place between two of
// them rounds without bias, to within the 16 bits of that number. Encoding drops the last one or
// two bits of a float; decoding is exact.
//
// In the unsigned format only 0 has the code 0. A second moment rounded to 0 whose first moment is
// not 0 would make the next step as large as mean / eps. NaN and infinity have codes and leave the
// rest of their block alone. The unsigned format keeps infinity, the square of a large gradient; in
// the signed format infinity becomes NaN.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "rounding.h"

namespace onepass {

inline constexpr std::int64_t kBlockSize = 64;

// Each index of the first dimension is a row, cut into blocks; the last one may be short. So a
// process that holds some of the rows has whole blocks.
struct BlockRows {
  std::int64_t row_size = 0;  // 0: there are no blocks

  bool operator==(const BlockRows&) const = default;

  std::int64_t blocks_of_row() const { return (row_size + kBlockSize - 1) / kBlockSize; }
  std::int64_t start_of(std::int64_t element) const {
    return element - element % row_size % kBlockSize;
  }
  std::int64_t end_of(std::int64_t element) const {
    const std::int64_t in_row = element % row_size;
    return element - in_row + std::min(row_size, (in_row / kBlockSize + 1) * kBlockSize);
  }
};

// The root of degree 2^kHalvings, scaled so that the root of 2 is 1. A code is the root times kTop,
// less kUnused, so that the smallest number has code 1.
template <int kHalvings, int kTop, int kUnused>
struct RootCurve {
  static constexpr std::uint32_t kOne = 0x3f800000u;                          // the bits of 1
  static constexpr std::uint32_t kShift = kOne - (0x40000000u >> kHalvings);  // root of 2 is 1

  // The place of a number in [0, 2] among the codes.
  ONEPASS_FN static float place_of(float x) {
    return float_of((bits_of(x) >> kHalvings) + kShift) * kTop - kUnused;
  }
  // The number of a code from 1 on.
  ONEPASS_FN static float number_of(std::int32_t code) {
    const float root = static_cast<float>(code + kUnused) * (1.0f / kTop);
    return float_of((bits_of(root) - kShift) << kHalvings);
  }
};

struct SignedCode {
  using Stored = std::int8_t;
  using Curve = RootCurve<1, 128, 1>;
  static constexpr float kSecondLargest = 2.0f - 1.0f / 32.0f;
  static constexpr std::int32_t kNaN = -128, kInfinite = kNaN;

  // The code must stand for a finite number other than 0.
  ONEPASS_FN static float decode(std::int32_t code, float scale) {
    const float magnitude = Curve::number_of(code < 0 ? -code : code) * scale;
    return float_of(bits_of(magnitude) | (static_cast<std::uint32_t>(code) & 0x80000000u));
  }
  // Takes the bits of a finite number and its magnitude, scaled. Below the smallest code the places
  // down to 0 are linear.
  ONEPASS_FN static std::int32_t encode(std::int32_t bits, float scaled, float random) {
    const float place = scaled < 0x1p-11f ? scaled * 0x1p11f : Curve::place_of(scaled);
    const auto code = static_cast<std::int32_t>(place + random);
    return bits < 0 ? -code : code;
  }
};

struct UnsignedCode {
  using Stored = std::uint8_t;
  using Curve = RootCurve<2, 256, 3>;
  static constexpr float kSecondLargest = 2.0f - 1.0f / 32.0f;
  static constexpr std::int32_t kNaN = 255, kInfinite = 254;

  ONEPASS_FN static float decode(std::int32_t code, float scale) {
    return Curve::number_of(code) * scale;
  }
  // The scaled magnitude of a tiny number may be 0.
  ONEPASS_FN static std::int32_t encode(std::int32_t bits, float scaled, float random) {
    const auto code = static_cast<std::int32_t>(Curve::place_of(scaled) + random);
    const std::int32_t never_zero = code < 1 ? 1 : code;
    return (bits & 0x7fffffff) == 0 ? 0 : never_zero;
  }
};

// The elements [first, first + size) of an operand with blocks, the tile that they go to or come
// from and, where they are rounded stochastically, their hashes.
template <class Real>
struct BlockRun {
  void* codes;
  std::int8_t* exponents;
  BlockRows rows;
  Real* tile;
  std::int64_t first, size;
  const std::uint32_t* hashes = nullptr;
};

ONEPASS_FN float power_of_two(std::int32_t exponent) {
  return float_of(exponent == -127 ? 0x400000u : static_cast<std::uint32_t>(exponent + 127) << 23);
}

inline constexpr std::int32_t kInfinity = 0x7f800000;  // its bits; those of NaN are more

ONEPASS_FN std::int32_t magnitude_of(float x) {
  return static_cast<std::int32_t>(bits_of(x) & 0x7fffffffu);
}

// The bits of the largest magnitude, of finite numbers alone or of all. Nearly always all are
// finite, and the loops below have a short form for that.
template <bool kFiniteAlone, class Real>
ONEPASS_FN std::int32_t largest_of(const Real* block, std::int64_t size) {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int32_t magnitude = magnitude_of(static_cast<float>(block[i]));
    // All bits of a mask: a condition would keep the loop from being vectorised.
    const std::int32_t if_finite = magnitude & (magnitude - kInfinity) >> 31;
    largest = std::max(largest, kFiniteAlone ? if_finite : magnitude);
  }
  return largest;
}

// The smallest exponent e with a magnitude up to 2 * 2^e.
ONEPASS_FN std::int32_t exponent_of(std::int32_t magnitude) {
  const std::uint32_t rounded_up = static_cast<std::uint32_t>(magnitude) + 0x7fffffu;
  return std::max(static_cast<std::int32_t>(rounded_up >> 23) - 128, -126);
}

// Whether all codes of a block stand for finite numbers that are not 0.
template <class Code>
ONEPASS_FN bool all_finite_and_nonzero(const typename Code::Stored* codes, std::int64_t size) {
  std::uint8_t found = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    const bool is_finite = codes[i] != static_cast<typename Code::Stored>(Code::kNaN) &&
                           codes[i] != static_cast<typename Code::Stored>(Code::kInfinite);
    found |= static_cast<std::uint8_t>(codes[i] == 0 || !is_finite);
  }
  return found == 0;
}

// Codes are widened and narrowed in loops of their own: a loop over numbers of 8 and 32 bits at a
// time is compiled to far more instructions.
template <bool kAllFiniteAndNonzero, class Real, class Code>
ONEPASS_FN void decode_block(const typename Code::Stored* codes, float scale, Real* block,
                             std::int64_t size) {
  std::int32_t wide[kBlockSize];
  ONEPASS_INDEPENDENT
  // NOLINTNEXTLINE(bugprone-signed-char-misuse): codes are numbers, with their sign
  for (std::int64_t i = 0; i < size; ++i) wide[i] = codes[i];
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < size; ++i) {
    using Limits = std::numeric_limits<float>;
    const float number = Code::decode(wide[i], scale);
    const float or_zero = wide[i] == 0 ? 0.0f : number;
    const float or_infinity = wide[i] == Code::kInfinite ? Limits::infinity() : or_zero;
    const float any = wide[i] == Code::kNaN ? Limits::quiet_NaN() : or_infinity;
    block[i] = kAllFiniteAndNonzero ? number : any;
  }
}

// The largest code of the largest exponent would stand for 2^128: the one before is taken for it.
template <bool kAllFinite, class Real, class Code, Rounding rounding>
ONEPASS_FN void encode_block(const Real* block, float per_scale, typename Code::Stored* codes,
                             std::int64_t size, const std::uint32_t* hashes) {
  std::int32_t wide[kBlockSize];
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < size; ++i) {
    float random = 0.5f;
    if constexpr (rounding != Rounding::kNearest)
      random = static_cast<float>(static_cast<std::int32_t>(random_bits<rounding>(hashes[i]))) *
               0x1p-16f;
    const auto x = static_cast<float>(block[i]);
    const std::int32_t magnitude = magnitude_of(x);
    const bool is_finite = kAllFinite || magnitude < kInfinity;
    const float scaled =
        float_of(static_cast<std::uint32_t>(is_finite ? magnitude : 0)) * per_scale;
    const float bounded = per_scale < 0x1p-126f ? std::min(scaled, Code::kSecondLargest) : scaled;
    const std::int32_t code =
        Code::encode(static_cast<std::int32_t>(bits_of(x)), kAllFinite ? scaled : bounded, random);
    const std::int32_t other = magnitude == kInfinity ? Code::kInfinite : Code::kNaN;
    wide[i] = is_finite ? code : other;
  }
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < size; ++i) codes[i] = static_cast<typename Code::Stored>(wide[i]);
}

// Calls visit(offset, size, exponent) for each block of a run, or the part of it in the run.
template <class Real, class Visit>
ONEPASS_FN void for_each_block(const BlockRun<Real>& run, const Visit& visit) {
  std::int64_t in_row = run.first % run.rows.row_size;
  std::int8_t* exponent = run.exponents + run.first / run.rows.row_size * run.rows.blocks_of_row() +
                          in_row / kBlockSize;
  for (std::int64_t done = 0; done < run.size;) {
    const std::int64_t in_block = in_row % kBlockSize;
    const std::int64_t size =
        std::min({kBlockSize - in_block, run.rows.row_size - in_row, run.size - done});
    visit(done, size, *exponent);
    done += size;
    in_row += size;
    if (in_row == run.rows.row_size) in_row = 0;
    ++exponent;
  }
}

// Calls work(size) with a length that the compiler knows wherever the block is a whole one.
template <class Work>
ONEPASS_FN void with_size(std::int64_t size, const Work& work) {
  return size == kBlockSize ? work(kBlockSize) : work(size);
}

template <class Real, class Code>
ONEPASS_FN void decode_blocks(const BlockRun<Real>& run) {
  const auto* const codes = static_cast<const typename Code::Stored*>(run.codes) + run.first;
  for_each_block(run, [&](std::int64_t at, std::int64_t size,
                          std::int8_t exponent) __attribute__((always_inline)) {
    const float scale = power_of_two(exponent);
    with_size(size, [&](std::int64_t count) __attribute__((always_inline)) {
      return all_finite_and_nonzero<Code>(codes + at, count)
                 ? decode_block<true, Real, Code>(codes + at, scale, run.tile + at, count)
                 : decode_block<false, Real, Code>(codes + at, scale, run.tile + at, count);
    });
  });
}

// The exponents come first: their reductions do not depend on each other and overlap.
template <class Real, class Code, Rounding rounding>
ONEPASS_FN void encode_blocks(const BlockRun<Real>& run) {
  auto* const codes = static_cast<typename Code::Stored*>(run.codes) + run.first;
  bool all_finite = true;  // and below the largest exponent
  for_each_block(run, [&](std::int64_t at, std::int64_t size, std::int8_t& exponent)
                          __attribute__((always_inline)) {
                            with_size(size, [&](std::int64_t count) __attribute__((always_inline)) {
                              std::int32_t largest = largest_of<false>(run.tile + at, count);
                              if (largest >= kInfinity) {
                                all_finite = false;
                                largest = largest_of<true>(run.tile + at, count);
                              }
                              exponent = static_cast<std::int8_t>(exponent_of(largest));
                              all_finite &= exponent < 127;
                            });
                          });
  for_each_block(run, [&](std::int64_t at, std::int64_t size,
                          std::int8_t exponent) __attribute__((always_inline)) {
    const Real* const block = run.tile + at;
    const std::uint32_t* const hashes = rounding == Rounding::kNearest ? nullptr : run.hashes + at;
    const float per_scale = power_of_two(-exponent);
    with_size(size, [&](std::int64_t count) __attribute__((always_inline)) {
      return all_finite ? encode_block<true, Real, Code, rounding>(block, per_scale, codes + at,
                                                                   count, hashes)
                        : encode_block<false, Real, Code, rounding>(block, per_scale, codes + at,
                                                                    count, hashes);
    });
  });
}

}  // namespace onepass
