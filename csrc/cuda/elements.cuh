// Elements of an operand, one or a vector of them, between memory in any stored type and registers
// in the arithmetic type. The stored type is looked at when the kernel runs: it is the same for all
// threads of a block, and a branch that all of them take costs less than a kernel for every mix.
#pragma once

#include "../storage/floats.h"
#include "portable.cuh"

namespace onepass::cuda {

template <class Real>
ONEPASS_DEVICE Real load_element(const void* data, Format type, std::int64_t i) {
  if constexpr (sizeof(Real) == 8)
    if (type == Format::kFloat64) return load<double>(static_cast<const double*>(data) + i);
  if (type == Format::kFloat32) return load<float>(static_cast<const float*>(data) + i);
  const auto bits = load<std::uint16_t>(static_cast<const std::uint16_t*>(data) + i);
  return type == Format::kBFloat16 ? decode(BFloat16{bits}) : decode(Half{bits});
}

template <class Real>
ONEPASS_DEVICE void store_element(void* data, Format type, std::int64_t i, Real x) {
  if constexpr (sizeof(Real) == 8)
    if (type == Format::kFloat64) return store<double>(static_cast<double*>(data) + i, x);
  if (type == Format::kFloat32)
    return store<float>(static_cast<float*>(data) + i, static_cast<float>(x));
  BFloat16 brain;
  Half half;
  encode(x, brain);
  encode(x, half);
  store<std::uint16_t>(static_cast<std::uint16_t*>(data) + i,
                       type == Format::kBFloat16 ? brain.bits : half.bits);
}

// As many elements as one thread takes at a time: 128 bits of the arithmetic type.
template <class Real>
inline constexpr int kVector = 16 / sizeof(Real);

// A vector as it lies in memory, in any stored type. Loading and decoding are two steps, so that
// the loads of all operands are under way before the first is waited for.
template <class Real>
class Raw {
 public:
  ONEPASS_DEVICE void load_from(const void* data, Format type, std::int64_t first) {
    const auto* const memory = static_cast<const char*>(data) + first * bytes_of_float(type);
    switch (kVector<Real> * bytes_of_float(type)) {
      case 16:
        words_ = load<uint4>(memory);
        return;
      case 8: {
        const auto half = load<uint2>(memory);
        words_.x = half.x;
        words_.y = half.y;
        return;
      }
      default:
        words_.x = load<unsigned>(memory);
    }
  }

  ONEPASS_DEVICE void store_to(void* data, Format type, std::int64_t first) const {
    auto* const memory = static_cast<char*>(data) + first * bytes_of_float(type);
    switch (kVector<Real> * bytes_of_float(type)) {
      case 16:
        return store(memory, words_);
      case 8:
        return store(memory, uint2{words_.x, words_.y});
      default:
        return store(memory, words_.x);
    }
  }

  ONEPASS_DEVICE void decode_to(Real* elements, Format type) const {
    switch (type) {
      case Format::kFloat64:
        return decode_as<double>(elements);
      case Format::kFloat32:
        return decode_as<float>(elements);
      case Format::kBFloat16:
        return decode_as<BFloat16>(elements);
      case Format::kFloat16:
        return decode_as<Half>(elements);
    }
  }

  ONEPASS_DEVICE void encode_from(const Real* elements, Format type) {
    switch (type) {
      case Format::kFloat64:
        return encode_as<double>(elements);
      case Format::kFloat32:
        return encode_as<float>(elements);
      case Format::kBFloat16:
        return encode_as<BFloat16>(elements);
      case Format::kFloat16:
        return encode_as<Half>(elements);
    }
  }

 private:
  template <class Stored>
  ONEPASS_DEVICE void decode_as(Real* elements) const {
    if constexpr (sizeof(Stored) <= sizeof(Real)) {
      Stored stored[kVector<Real>];
      __builtin_memcpy(stored, this, sizeof stored);
      ONEPASS_UNROLL
      for (int k = 0; k < kVector<Real>; ++k) elements[k] = static_cast<Real>(decode(stored[k]));
    }
  }

  template <class Stored>
  ONEPASS_DEVICE void encode_as(const Real* elements) {
    if constexpr (sizeof(Stored) <= sizeof(Real)) {
      Stored stored[kVector<Real>];
      ONEPASS_UNROLL
      for (int k = 0; k < kVector<Real>; ++k) encode(elements[k], stored[k]);
      __builtin_memcpy(this, stored, sizeof stored);
    }
  }

  uint4 words_;
};

}  // namespace onepass::cuda
