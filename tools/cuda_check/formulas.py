"""Formulas as text in one form, whichever of the equal forms a compiler has chosen.

Only changes that are exact in floating point are undone: the order of the operands of a sum or a
product, where a sign stands, a subtraction as the addition of the negative.
"""

from __future__ import annotations

_TRIVIAL = ("0.0", "-0.0", "1.0", "-1.0")  # an inputless compiler computes with these beforehand


def leaf(x: float) -> str:
    """Returns a number that was read or is a constant."""
    return repr(float(x))


def negative(a: str) -> str:
    """Returns -a.

    >>> negative("-(a + b)")
    '(a + b)'
    """
    return a[1:] if a.startswith("-") else "-" + a


def _without_signs(a: str, b: str) -> tuple[str, str, bool]:
    return a.removeprefix("-"), b.removeprefix("-"), a.startswith("-") != b.startswith("-")


def _sum(a: str, b: str) -> str:
    if a in _TRIVIAL and b in _TRIVIAL:
        return leaf(float(a) + float(b))
    a, b = sorted((a, b))
    return f"({a} + {b})"


def _product(a: str, b: str) -> str:
    a, b, is_negative = _without_signs(a, b)
    a, b = sorted((a, b))
    product = b if a == "1.0" else a if b == "1.0" else f"({a} * {b})"
    return negative(product) if is_negative else product


def _quotient(a: str, b: str) -> str:
    a, b, is_negative = _without_signs(a, b)
    return negative(f"({a} / {b})") if is_negative else f"({a} / {b})"


_OPERATIONS = {
    "add": _sum,
    "sub": lambda a, b: _sum(a, negative(b)),
    "mul": _product,
    "div": _quotient,
    "rcp": lambda a: _quotient("1.0", a),
    "neg": negative,
    "abs": lambda a: f"abs({a.removeprefix('-')})",
    "sqrt": lambda a: f"sqrt({a})",
    "fma": lambda a, b, c: f"fma({_product(a, b)} + {c})",
}
_ARITY = {"rcp": 1, "neg": 1, "abs": 1, "sqrt": 1, "fma": 3}


def combined(operation: str, *operands: str) -> str:
    """Returns the formula of an operation on formulas.

    >>> combined("sub", "p", combined("mul", "m", "-1.0")) == combined("add", "m", "p")
    True
    """
    return _OPERATIONS[operation](*operands)  # type: ignore[no-any-return, operator]


def from_postfix(text: str) -> str:
    """Returns a formula that is given in postfix notation.

    >>> from_postfix("2 3 1 neg mul sub")
    '(2.0 + 3.0)'
    """
    stack: list[str] = []
    for word in text.split():
        if word in _OPERATIONS:
            arity = _ARITY.get(word, 2)
            operands = stack[-arity:]
            del stack[-arity:]
            stack.append(combined(word, *operands))
        else:
            stack.append(leaf(float(word)))
    (formula,) = stack
    return formula
