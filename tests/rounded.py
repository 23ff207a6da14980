"""Numbers that know how far rounding may have moved them. Never imports onepass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np


@dataclass
class Rounded:
    """A number, exact, and the running error of computing it with one rounding an operation.

    A computation in which every result is off by at most u times its size is off by at most u times
    `error` in the end, to first order (Higham 2002, section 3.3). Floats that numbers are combined
    with are coefficients, rounded once themselves; integers are exact.
    """

    value: np.ndarray
    error: np.ndarray

    def __add__(self, other: Any) -> Rounded:
        other, total = _lifted(other), self.value + _lifted(other).value
        return Rounded(total, self.error + other.error + abs(total))

    def __mul__(self, other: Any) -> Rounded:
        other = _lifted(other)
        product = self.value * other.value
        error = _times(abs(self.value), other.error) + _times(self.error, abs(other.value))
        # The second order, all there is where both cancelled to 0, in float32.
        error = error + 2.0**-24 * _times(self.error, other.error)
        return Rounded(product, error + _size(product))

    def __truediv__(self, other: Any) -> Rounded:
        other = _lifted(other)
        quotient = self.value / other.value
        error = self.error + _times(abs(quotient), other.error)
        error = np.where(np.isinf(other.value), 0.0, error / abs(other.value))
        return Rounded(quotient, error + _size(quotient))

    def __neg__(self) -> Rounded:
        return Rounded(-self.value, self.error)

    def __sub__(self, other: Any) -> Rounded:
        return self + -_lifted(other)

    def __abs__(self) -> Rounded:
        return Rounded(abs(self.value), self.error)

    __radd__ = __add__
    __rmul__ = __mul__

    def sqrt(self) -> Rounded:
        root = np.sqrt(self.value)
        inherited = np.divide(self.error, 2 * root, out=np.zeros_like(root), where=root > 0)
        return Rounded(root, inherited + root)

    def norm(self) -> Rounded:
        """Returns the norm of all elements, summed in a wider type."""
        squares = self * self
        square = np.asarray(np.sum(squares.value))
        return Rounded(square, np.asarray(np.sum(squares.error)) + square).sqrt()

    def maximum(self, other: Any) -> Rounded:
        other = _lifted(other)
        error = np.maximum(self.error, other.error)
        return Rounded(np.maximum(self.value, other.value), error)

    def minimum(self, other: Any) -> Rounded:
        return -((-self).maximum(-_lifted(other)))

    def sign(self) -> Rounded:
        """Returns 0 for NaN as torch.sign; any will do where rounding may have moved past zero."""
        unsure = (self.error > 0) & (abs(self.value) <= 2.0**-24 * self.error)
        return Rounded(np.nan_to_num(np.sign(self.value)), np.where(unsure, 1e13, 0.0))

    def where(self, condition: Any, other: Any) -> Rounded:
        other = _lifted(other)
        pick = [np.where(condition, a, b) for a, b in
                ((self.value, other.value), (self.error, other.error))]  # fmt: skip
        return Rounded(*pick)


def mean(old: Rounded, new: Rounded, beta: Any) -> Rounded:
    """Returns beta old + (1 - beta) new, in whatever form it is computed."""
    value = _times(beta, old.value) + _times(1 - beta, new.value)
    sizes = _size(_times(beta, old.value)) + _size(_times(1 - beta, new.value))
    error = _times(beta, old.error) + _times(1 - beta, new.error) + 3 * sizes + abs(value)
    return Rounded(value, error)


def exact(value: Any) -> Rounded:
    value = np.asarray(value, np.result_type(np.float64, value))  # np.longdouble stays what it is
    return Rounded(value, np.zeros_like(value))


def coefficient(value: Any) -> Rounded:
    """Returns a number that was computed in float64 and rounded once."""
    value = np.asarray(value, np.result_type(np.float64, value))
    return Rounded(value, abs(value))


def _size(x: Any) -> np.ndarray:
    """Returns |x|, or the smallest normal float32: what is smaller rounds no finer than that."""
    return np.maximum(abs(x), 2.0**-126)


def _times(a: Any, b: Any) -> np.ndarray:
    """Returns a b, and 0 where one of them is 0, whatever the other is."""
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _lifted(value: Any) -> Rounded:
    if isinstance(value, Rounded):
        return value
    return exact(value) if isinstance(value, int) else coefficient(cast(Any, value))


# The digits after the leading one and the smallest normal exponent of each type.
_FORMATS = {"float32": (23, -126), "bfloat16": (7, -126), "float16": (10, -14)}


def ulp(x: Any, dtype: str = "float32") -> np.ndarray:
    """Returns the distance between neighbouring numbers of a type at |x|."""
    digits, smallest = _FORMATS[dtype]
    return np.ldexp(1.0, np.maximum(np.frexp(abs(x))[1] - 1, smallest) - digits)


def bound(error: Any, value: Any, dtype: str) -> np.ndarray:
    """Returns how far from `value`, computed in float64, a result of one step may lie.

    In float32 every operation rounds by half a unit in the last place; float64 is given 1e-12. A
    type of 16 bits is float32 and one rounding more.
    """
    if dtype == "float64":
        return 1e-12 * error
    single = 2.0**-24 * 1.01 * error + 2.0**-149  # 1.01: what first order leaves out
    if dtype == "float32":
        return single
    return single + ulp(abs(value) + single, dtype) / 2
