"""Runs one thread of a kernel, from its PTX, and writes down by which formula it computes numbers.

What is run is the PTX in the library, that of the newest architecture. The machine code of the
others comes from PTX of their own, of the same source and flags, which nvcc does not keep. Only
what the project's kernels use is known here; anything else is reported.
"""

from __future__ import annotations

import math
import operator
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from . import formulas
from .memory import Memory, Stop
from .ptx import Instruction, Kernel

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_INTEGER: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "rem": lambda a, b: int(math.fmod(a, b)),
    "min": min,
    "max": max,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "shl": operator.lshift,
    "shr": operator.rshift,
}
_FLOAT: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "rcp": lambda a: type(a)(1) / a,
    "neg": operator.neg,
    "abs": abs,
    "sqrt": np.sqrt,
}


# Longer than that of any rule. The powers of coefficients would grow without bound.
_LONGEST_FORMULA = 2000


class Value(NamedTuple):
    """The bits in a register, and how they were computed if it was by arithmetic."""

    bits: int
    formula: str | None = None


# In a register that nothing was written to: a compiler reads it where it does not matter. Where it
# does, the result shows it.
_UNDEFINED = Value(0x5A5A5A5A5A5A5A5A)


def _bits(x: Any) -> int:
    return int.from_bytes(x.tobytes(), "little")


def _size(kind: str) -> int:
    return 1 if kind == "pred" else int(kind[1:]) // 8


def _type(kind: str) -> Any:
    return np.float32 if kind == "f32" else np.float64


def _float(bits: int, kind: str) -> Any:
    return np.frombuffer(bits.to_bytes(8, "little"), _type(kind))[0]


def _integer(bits: int, kind: str) -> int:
    """Returns the number that the low bits mean, with a sign where the type has one."""
    width = 8 * _size(kind)
    bits &= (1 << width) - 1
    return bits - (1 << width) if kind[0] == "s" and bits >> (width - 1) else bits


class Thread:
    """One thread of block 0 and its registers."""

    def __init__(self, kernel: Kernel, parameters: bytes, memory: Memory, index: int) -> None:
        """Takes the kernel's arguments as bytes, and the thread's number in its block."""
        self._kernel, self._parameters, self._memory = kernel, parameters, memory
        self._registers: dict[str, Value] = {"%tid.x": Value(index), "%ctaid.x": Value(0)}
        self._next = 0

    def run(self, limit: int = 100_000) -> None:
        """Runs until the kernel returns."""
        for _ in range(limit):
            instruction = self._kernel.instructions[self._next]
            self._next += 1
            if instruction.guard and not self._is_taken(instruction.guard):
                continue
            if instruction.opcode == "ret":
                return
            try:
                self._execute(instruction)
            except (KeyError, ValueError, TypeError) as error:
                raise Stop(f"does not know `{instruction}` ({error!r})") from error
        raise Stop(f"did not end after {limit} instructions")

    def _is_taken(self, guard: str) -> bool:
        return bool(self._registers[guard.lstrip("!")].bits) != guard.startswith("!")

    def _execute(self, instruction: Instruction) -> None:
        name, *modifiers = instruction.opcode.split(".")
        getattr(self, "_do_" + name, self._arithmetic)(name, modifiers, instruction.operands)

    def _value(self, operand: str) -> Value:
        if operand.startswith("%"):
            if operand not in self._registers and re.fullmatch(r"%[a-z]+\d+", operand):
                return _UNDEFINED
            return self._registers[operand]
        if found := re.fullmatch(r"0[fd]([0-9A-F]+)", operand):
            return Value(int(found[1], 16))
        return Value(int(operand.rstrip("U"), 0))

    def _numbers(self, operands: list[str], kind: str) -> list[int]:
        return [_integer(self._value(operand).bits, kind) for operand in operands]

    def _set(self, register: str, bits: int) -> None:
        self._registers[register] = Value(bits)

    def _arithmetic(self, name: str, modifiers: list[str], operands: list[str]) -> None:
        target, *sources = operands
        kind = modifiers[-1]
        if kind[0] == "f":
            return self._float_arithmetic(name, kind, target, sources)
        if name in ("shl", "shr"):
            a, b = self._numbers(sources[:1], kind) + self._numbers(sources[1:], "u32")
        else:
            a, b = self._numbers(sources, kind)
        result = _INTEGER[name](a, b)
        width = 2 * _size(kind) if "wide" in modifiers else _size(kind)
        self._set(target, result & ((1 << 8 * width) - 1))

    def _float_arithmetic(self, name: str, kind: str, target: str, sources: list[str]) -> None:
        values = [self._value(source) for source in sources]
        numbers = [_float(value.bits, kind) for value in values]
        with np.errstate(all="ignore"):
            result = _FLOAT[name](*numbers)
        parts = [
            value.formula or formulas.leaf(number)
            for value, number in zip(values, numbers, strict=True)
        ]
        self._set_computed(target, _bits(result), formulas.combined(name, *parts))

    def _set_computed(self, target: str, bits: int, formula: str) -> None:
        if len(formula) > _LONGEST_FORMULA:
            return self._set(target, bits)
        self._memory.computed.setdefault(bits, set()).add(formula)
        self._registers[target] = Value(bits, formula)

    def _do_fma(self, name: str, modifiers: list[str], operands: list[str]) -> None:
        target, *sources = operands
        kind = modifiers[-1]
        values = [self._value(source) for source in sources]
        a, b, c = (_float(value.bits, kind) for value in values)
        parts = [v.formula or formulas.leaf(_float(v.bits, kind)) for v in values]
        self._set_computed(target, _bits(_fused(a, b, c)), formulas.combined(name, *parts))

    def _do_mad(self, _name: str, modifiers: list[str], operands: list[str]) -> None:
        a, b, c = self._numbers(operands[1:], modifiers[-1])
        self._set(operands[0], (a * b + c) & ((1 << 8 * _size(modifiers[-1])) - 1))

    def _do_mov(self, _name: str, modifiers: list[str], operands: list[str]) -> None:
        targets, sources = (operand.strip("{}").split(",") for operand in operands)
        width = 8 * _size(modifiers[-1]) // max(len(targets), len(sources))
        if len(targets) == len(sources):
            self._registers[operands[0]] = self._value(operands[1])
        elif len(targets) == 1:
            words = [self._value(s.strip()).bits << k * width for k, s in enumerate(sources)]
            self._set(targets[0], sum(words))
        else:
            for k, target in enumerate(targets):
                bits = self._value(sources[0]).bits >> k * width
                self._set(target.strip(), bits & ((1 << width) - 1))

    _do_cvta = _do_mov

    def _do_neg(self, name: str, modifiers: list[str], operands: list[str]) -> None:
        if modifiers[-1][0] == "f":
            return self._arithmetic(name, modifiers, operands)
        self._arithmetic("sub", modifiers, [operands[0], "0", operands[1]])

    def _do_not(self, _name: str, modifiers: list[str], operands: list[str]) -> None:
        ones = 1 if modifiers[-1] == "pred" else (1 << 8 * _size(modifiers[-1])) - 1
        self._set(operands[0], self._value(operands[1]).bits ^ ones)

    def _do_bfe(self, _name: str, _modifiers: list[str], operands: list[str]) -> None:
        a, start, count = self._numbers(operands[1:], "u64")
        self._set(operands[0], a >> start & ((1 << count) - 1))

    def _do_prmt(self, _name: str, _modifiers: list[str], operands: list[str]) -> None:
        a, b, choice = self._numbers(operands[1:], "u32")
        source = struct.pack("<II", a, b)
        chosen = bytes(source[choice >> 4 * k & 7] for k in range(4))
        self._set(operands[0], int.from_bytes(chosen, "little"))

    def _do_selp(self, _name: str, _modifiers: list[str], operands: list[str]) -> None:
        target, a, b, which = operands
        self._registers[target] = self._value(a if self._value(which).bits else b)

    def _do_setp(self, _name: str, modifiers: list[str], operands: list[str]) -> None:
        how, kind = modifiers
        target, *sources = operands
        if kind[0] == "f":
            a, b = (_float(self._value(source).bits, kind) for source in sources)
            unordered = bool(np.isnan(a) or np.isnan(b))
            if how in ("nan", "num"):
                result = unordered == (how == "nan")
            elif how not in _COMPARE:  # neu, ltu, ...: true also where one is NaN
                result = unordered or _COMPARE[how.removesuffix("u")](a, b)
            else:
                result = not unordered and _COMPARE[how](a, b)
        else:
            result = _COMPARE[how](*self._numbers(sources, kind))
        self._set(target, int(result))

    def _do_cvt(self, _name: str, modifiers: list[str], operands: list[str]) -> None:
        to, of = modifiers[-2:]
        bits = self._value(operands[1]).bits
        number = _float(bits, of) if of[0] == "f" else _integer(bits, of)
        converted = _bits(_type(to)(number)) if to[0] == "f" else int(number)
        self._set(operands[0], converted & ((1 << 8 * _size(to)) - 1))

    def _do_bra(self, _name: str, _modifiers: list[str], operands: list[str]) -> None:
        self._next = self._kernel.labels[operands[0]]

    def _address(self, operand: str) -> int:
        base, _, offset = operand.strip("[]").partition("+")
        return self._value(base).bits + int(offset or 0)

    def _do_ld(self, _name: str, modifiers: list[str], operands: list[str]) -> None:
        size = _size(modifiers[-1])
        targets = operands[0].strip("{}").split(",")
        if "param" in modifiers:
            start = int(operands[1].strip("[]").partition("+")[2] or 0)
            bits = int.from_bytes(self._parameters[start : start + size], "little")
            self._set(targets[0].strip(), bits)
            return
        address = self._address(operands[1])
        self._check_alignment(address, size * len(targets))
        for k, target in enumerate(targets):
            self._set(target.strip(), self._memory.get(address + k * size, size))

    def _do_st(self, _name: str, modifiers: list[str], operands: list[str]) -> None:
        size = _size(modifiers[-1])
        address = self._address(operands[0])
        sources = operands[1].strip("{}").split(",")
        self._check_alignment(address, size * len(sources))
        for k, source in enumerate(sources):
            value = self._value(source.strip())
            data = (value.bits & ((1 << 8 * size) - 1)).to_bytes(size, "little")
            self._memory.put(address + k * size, data)
            self._memory.written.update(range(address + k * size, address + (k + 1) * size))

    @staticmethod
    def _check_alignment(address: int, size: int) -> None:
        if address % size != 0:
            raise Stop(f"accesses {size} bytes at {address:#x}, which is no multiple of that")


def _fused(a: Any, b: Any, c: Any) -> Any:
    """Returns a * b + c, rounded once."""
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if type(a) is np.float64:
        return np.float64(float(exact))  # float(Fraction) is correctly rounded
    near = np.float32(float(exact))
    around = (np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf)))
    return min(around, key=lambda x: (abs(Fraction(float(x)) - exact), _bits(x) & 1))
