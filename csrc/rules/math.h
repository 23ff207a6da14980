// The functions of single numbers that rules share: the same bits on every device.
#pragma once

#include <cmath>

#include "../portable.h"

namespace onepass {

// base^exponent for base and exponent >= 0: the whole part by repeated squaring, the rest by
// repeated roots. One function for every device, because the pow of a device's mathematics library
// is not that of another.
ONEPASS_FN double power(double base, double exponent) {
  double result = 1.0, square = base;
  // Beyond 2^63 a power is what it is at 2^63: 0, 1 or infinite. No integer holds such an exponent,
  // and what a conversion makes of it is another number on every architecture.
  const auto whole = exponent < 0x1p63 ? static_cast<unsigned long long>(exponent) : 1ull << 63;
  for (auto bits = whole; bits != 0; bits >>= 1) {
    if ((bits & 1) != 0) result *= square;
    square *= square;
  }
  double root = base, rest = exponent - static_cast<double>(whole);
  // After 64 roots nothing is left of a base but 1. What a device was given may be no exponent at
  // all, and must end too.
  for (int roots = 0; roots < 64 && rest > 0.0; ++roots) {
    root = std::sqrt(root);
    rest *= 2.0;
    if (rest < 1.0) continue;
    result *= root;
    rest -= 1.0;
  }
  return result;
}

// from + weight (to - from), in the form that is exact at both ends, as torch.lerp.
template <class Real>
ONEPASS_FN Real lerp(Real from, Real to, Real weight) {
  const Real difference = to - from;
  return weight < Real(0.5) ? from + weight * difference : to - difference * (Real(1) - weight);
}

// The same, rounded once fewer: bit for bit torch.lerp where torch has vector kernels, whose
// multiplication and addition are one. Every fma is correctly rounded, one in software too.
template <class Real>
ONEPASS_FN Real fused_lerp(Real from, Real to, Real weight) {
  const bool small = weight < Real(0.5);
  return std::fma(small ? weight : weight - Real(1), to - from, small ? from : to);
}

// The larger value, or NaN where either is NaN, as torch.maximum.
template <class Real>
ONEPASS_FN Real maximum(Real a, Real b) {
  return (a > b || a != a) ? a : b;
}

// x brought between the bounds, or NaN, as torch.clamp.
template <class Real>
ONEPASS_FN Real clamp(Real x, Real smallest, Real largest) {
  const Real raised = x < smallest ? smallest : x;
  return raised > largest ? largest : raised;
}

// -1, 0 or 1; 0 for NaN, as torch.sign.
template <class Real>
ONEPASS_FN Real sign(Real x) {
  return Real(x > Real(0)) - Real(x < Real(0));
}

// Cautious steps (Liang et al. 2024, algorithm 1): an element whose step would go against its
// gradient rests, and the others go further, so that the mean step stays. The least share is that
// of the authors' code.
template <class Real>
ONEPASS_FN bool agree(Real direction, Real g) {
  return sign(direction) * sign(g) > Real(0);
}
// As a number: a conversion of the truth value would not be vectorised.
template <class Real>
ONEPASS_FN Real agreement(Real direction, Real g) {
  return agree(direction, g) ? Real(1) : Real(0);
}
ONEPASS_FN double cautious_scale(double agreeing, double size) {
  const double share = agreeing / size;
  return 1.0 / (share < 1e-3 ? 1e-3 : share);
}

// |x| / |y| of two sums of squares, and 1 where one of them is 0, as in the code of LAMB's authors.
ONEPASS_FN double trust_ratio(double x_square, double y_square) {
  return x_square == 0.0 || y_square == 0.0 ? 1.0 : std::sqrt(x_square) / std::sqrt(y_square);
}

}  // namespace onepass
