// A number that writes down the formula it is computed by. Rules call std::sqrt by its full name,
// so that this must be included before they are.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>
#include <utility>

namespace onepass {

// A number with its formula in postfix notation.
template <class Real>
struct Traced {
  Real value = 0;
  std::string formula;

  Traced() = default;
  Traced(double x) : value(static_cast<Real>(x)) {  // NOLINT: rules convert from double and int
    char text[40];
    std::snprintf(text, sizeof text, "%.17g", static_cast<double>(value));
    formula = text;
  }
  Traced(Real value, std::string formula) : value(value), formula(std::move(formula)) {}

  friend Traced operator+(const Traced& a, const Traced& b) {
    return {a.value + b.value, a.formula + " " + b.formula + " add"};
  }
  friend Traced operator-(const Traced& a, const Traced& b) {
    return {a.value - b.value, a.formula + " " + b.formula + " sub"};
  }
  friend Traced operator*(const Traced& a, const Traced& b) {
    return {a.value * b.value, a.formula + " " + b.formula + " mul"};
  }
  friend Traced operator/(const Traced& a, const Traced& b) {
    return {a.value / b.value, a.formula + " " + b.formula + " div"};
  }
  friend Traced operator-(const Traced& a) { return {-a.value, a.formula + " neg"}; }
  // What changes a coefficient: kernels find it as it is then, without a formula.
  Traced& operator*=(const Traced& b) { return *this = Traced(double(value * b.value)); }
  friend bool operator==(const Traced& a, const Traced& b) { return a.value == b.value; }
  friend auto operator<=>(const Traced& a, const Traced& b) { return a.value <=> b.value; }
};

}  // namespace onepass

namespace std {
template <class Real>
onepass::Traced<Real> sqrt(const onepass::Traced<Real>& x) {
  return {std::sqrt(x.value), x.formula + " sqrt"};
}
template <class Real>
onepass::Traced<Real> abs(const onepass::Traced<Real>& x) {
  return {std::abs(x.value), x.formula + " abs"};
}
template <class Real>
onepass::Traced<Real> fma(const onepass::Traced<Real>& a, const onepass::Traced<Real>& b,
                          const onepass::Traced<Real>& c) {
  return {std::fma(a.value, b.value, c.value),
          a.formula + " " + b.formula + " " + c.formula + " fma"};
}
}  // namespace std
