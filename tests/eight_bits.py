"""Numbers of 8 bits in blocks, from their definition: which they are, and how they are rounded.

In float64 and by listing all codes; never imports onepass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 64
SMALLEST_EXPONENT = -126


@dataclass(frozen=True)
class Format:
    """The magnitudes of codes 0 to `len(numbers) - 1`, and the codes of NaN and infinity."""

    numbers: np.ndarray  # of the codes, before the exponent
    steps: np.ndarray  # into how many steps encoding divides the gap above each code
    is_signed: bool

    @property
    def nan(self) -> int:
        return -128 if self.is_signed else 255

    @property
    def infinity(self) -> int:
        return -128 if self.is_signed else 254

    @property
    def dtype(self) -> type:
        return np.int8 if self.is_signed else np.uint8


def _format(codes_of_octaves: list[int], lost_bits: int, is_signed: bool) -> Format:
    """Octaves from [1, 2] down; encoding ignores the last `lost_bits` of a float's 23."""
    numbers, steps = [2.0], [1.0]
    for octave, count in enumerate(codes_of_octaves):
        numbers += [2.0**-octave * (1 + k / count) for k in reversed(range(count))]
        steps += [2.0 ** (23 - lost_bits) / count] * count
    smallest = 2.0**40 if is_signed else 1.0  # linear down to 0, or never looked at
    return Format(np.array([0.0, *numbers[::-1]]), np.array([smallest, *steps[::-1]]), is_signed)


SIGNED = _format([32, 32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1], 1, True)
UNSIGNED = _format([32] * 4 + [16] * 4 + [8] * 4 + [4] * 4 + [2] * 4 + [1] * 4, 2, False)


def blocks_of(shape: tuple[int, ...]) -> list[slice]:
    """Returns the blocks of a tensor's elements, in their order: no block has parts of two rows."""
    row = int(np.prod(shape[1:]))
    starts = [r * row + k for r in range(shape[0]) for k in range(0, row, BLOCK)]
    return [slice(s, min(s + BLOCK, (s // row + 1) * row)) for s in starts]


def exponent_of(block: np.ndarray) -> int:
    """Returns the smallest e with all finite numbers of a block up to 2 2^e."""
    finite = np.abs(block[np.isfinite(block)]).max(initial=0.0)
    fraction, exponent = np.frexp(finite.astype(np.float64))  # finite = fraction 2^exponent
    smallest = exponent - (2 if fraction == 0.5 else 1)
    return max(int(smallest), SMALLEST_EXPONENT) if finite else SMALLEST_EXPONENT


def encode(
    x: np.ndarray, shape: tuple[int, ...], form: Format, random: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns codes and exponents of float32 numbers; `random` in [0, 1) decides where between."""
    codes, exponents = np.zeros(x.size, form.dtype), []
    for block in blocks_of(shape):
        exponent = exponent_of(x[block])
        exponents.append(exponent)
        codes[block] = _encode_block(x[block].astype(np.float64), exponent, form, random[block])
    return codes, np.array(exponents, np.int8)


def _encode_block(x: np.ndarray, exponent: int, form: Format, random: np.ndarray) -> np.ndarray:
    is_finite = np.isfinite(x)
    size = np.where(is_finite, np.abs(x), 0.0) * 2.0**-exponent
    if exponent == 127:  # whose largest number, 2^128, float32 does not hold
        size = np.minimum(size, form.numbers[-2])
    code = np.minimum(np.searchsorted(form.numbers, size, side="right"), len(form.numbers) - 1) - 1
    low, high = form.numbers[code], form.numbers[code + 1]
    part = np.floor((size - low) / (high - low) * form.steps[code]) / form.steps[code]
    # One rounding to float32: of the sum of the place and what is random.
    place = (code + part).astype(np.float32)
    if not form.is_signed:
        place = np.where(code < 1, np.float32(0.0), place)
    code = np.floor(place + random.astype(np.float32)).astype(np.int64)
    code = np.minimum(code, len(form.numbers) - 1)
    if form.is_signed:
        code = np.where(x < 0, -code, code)
    else:
        code = np.where(size > 0, np.maximum(code, 1), 0)
    other = np.where(np.isinf(x), form.infinity, form.nan)
    return np.where(is_finite, code, other).astype(form.dtype)


def decode(
    codes: np.ndarray, exponents: np.ndarray, shape: tuple[int, ...], form: Format
) -> np.ndarray:
    """Returns the numbers of codes, all of which float32 holds."""
    x = np.zeros(codes.size)
    for block, exponent in zip(blocks_of(shape), exponents.reshape(-1), strict=True):
        code = codes[block].astype(np.int64)
        is_number = (code != form.nan) & (code != form.infinity)
        size = form.numbers[np.where(is_number, np.abs(code), 0)]
        other = np.where(code == form.nan, np.nan, np.inf)
        x[block] = np.where(is_number, np.copysign(size, code), other) * 2.0 ** float(exponent)
    return x
