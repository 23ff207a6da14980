// What the steps of the program begin with, where it lies, and what is kept of how they end.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include "storage/floats.h"

namespace onepass {

// FNV-1a over numbers. Every NaN counts as the same one: its sign and payload are left to the
// architecture (IEEE 754-2019, section 6.3), and x86-64 makes others than aarch64.
class Digest {
 public:
  template <class Stored>
  void add(const Stored& number) {
    const bool is_nan = std::isnan(decode(number));
    const auto* const bytes = reinterpret_cast<const unsigned char*>(&number);
    for (std::size_t k = 0; k < sizeof number; ++k) add_byte(is_nan ? 0xff : bytes[k]);
  }

  void print(const std::string& label) const {
    std::printf("%s: %016llx\n", label.c_str(), static_cast<unsigned long long>(hash_));
  }

  void add_byte(unsigned char byte) { hash_ = (hash_ ^ byte) * 0x100000001b3ull; }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325ull;
};

// SplitMix64. The numbers are made of integers, so that they are the same everywhere.
inline std::uint64_t random_bits(std::uint64_t seed) {
  seed = (seed + 1) * 0x9e3779b97f4a7c15ull;
  seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9ull;
  seed = (seed ^ (seed >> 27)) * 0x94d049bb133111ebull;
  return seed ^ (seed >> 31);
}

// Zero and one, and both sides of the ends of what the stored types and their squares can hold.
inline constexpr double kExtremes[] = {
    0.0,       1.0,          65504.0,      65520.0,  0x1p-14,  0x1.4p-20, 0x1p-24,
    0x1.8p-25, 0x1p63,       0x1p-64,      FLT_MAX,  0x1p128,  FLT_MIN,   0x1p-133,
    0x1p-140,  FLT_TRUE_MIN, 0x1p511,      0x1p-511, 0x1p-537, 0x1p1000,  0x1p-1050,
    DBL_MAX,   DBL_MIN,      DBL_TRUE_MIN, INFINITY, NAN};

// Between 2^-12 and 2^4, and where numbers are extreme mostly other ones.
struct RandomNumbers {
  std::uint64_t seed;
  bool are_extreme, are_signed;

  double at(std::int64_t k) const {
    const std::uint64_t random = random_bits(seed * 1'000'003 + static_cast<std::uint64_t>(k));
    const double fraction = 1.0 + static_cast<double>(random >> 12) * 0x1p-52;
    const double usual = std::ldexp(fraction, static_cast<int>(random % 16) - 12);
    const bool is_extreme = are_extreme && (random >> 4) % 3 != 0;
    const double size = is_extreme ? kExtremes[(random >> 8) % std::size(kExtremes)] : usual;
    return are_signed && (random >> 16) % 2 != 0 ? -size : size;
  }
};

// Every number of the 16-bit types and those that are half-way between two of them or just beside;
// every other one lies between floats.
struct EveryNumber {
  static constexpr std::uint32_t kFurther[] = {0, 0x0fff, 0x1000, 0x1001,   // of float16
                                               0, 0x7fff, 0x8000, 0x8001};  // of bfloat16
  static constexpr std::int64_t kSize = std::ssize(kFurther) << 16;

  double at(std::int64_t k) const {
    const auto bits = static_cast<std::uint16_t>(k % 65536);
    const auto kind = static_cast<int>(k / 65536);
    const float exact = kind < 4 ? decode(Half{bits}) : decode(BFloat16{bits});
    const double number = float_of(bits_of(exact) + kFurther[kind]);
    return k % 2 == 0 ? number : number * (1.0 + 0x1p-40);
  }
};

inline const char* name_of(Format type) {
  constexpr const char* kNames[] = {"float32", "float64", "bfloat16",
                                    "float16", "int8",    "uint8"};
  return kNames[static_cast<int>(type)];
}

// The memory of one operand, gaps included: what must not be written is in the digest too.
class Memory {
 public:
  Memory(Format type, std::int64_t size) : type_(type), size_(size), bytes_(size * sizeof(double)) {}

  void* data() { return bytes_.data(); }

  template <class Numbers>
  void fill(const Numbers& numbers) {
    for_each([&](auto& number, std::int64_t k) { encode(numbers.at(k), number); });
  }

  void add_to(Digest& digest) {
    for_each([&](const auto& number, std::int64_t) { digest.add(number); });
    if (has_blocks(type_))
      for (const std::byte code : bytes_) digest.add_byte(static_cast<unsigned char>(code));
  }

 private:
  template <class Visit>
  void for_each(const Visit& visit) {
    switch (type_) {
      case Format::kFloat32:
        return for_each_as<float>(visit);
      case Format::kFloat64:
        return for_each_as<double>(visit);
      case Format::kBFloat16:
        return for_each_as<BFloat16>(visit);
      case Format::kFloat16:
        return for_each_as<Half>(visit);
      default:  // codes are written by steps alone
        return;
    }
  }

  template <class Stored, class Visit>
  void for_each_as(const Visit& visit) {
    auto* const numbers = reinterpret_cast<Stored*>(bytes_.data());
    for (std::int64_t k = 0; k < size_; ++k) visit(numbers[k], k);
  }

  Format type_;
  std::int64_t size_;
  std::vector<std::byte> bytes_;
};

}  // namespace onepass
