"""The arithmetic of exponential moving averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

_Tensors = TypeVar("_Tensors", Tensor, Sequence[Tensor])
_Number = TypeVar("_Number", float, Tensor)


def checked_beta(beta: float) -> float:
    """Returns beta, or raises where it is out of range."""
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"Invalid beta value: {beta} (it must be in [0, 1))")
    return float(beta)


def checked_whole(name: str, value: float, smallest: int) -> int:
    """Returns a whole number, or raises where it is none or too small."""
    if not (smallest <= value < 2**53 and value == int(value)):
        raise ValueError(
            f"Invalid {name} value: {value} (it must be a whole number from {smallest} up)"
        )
    return int(value)


def window(beta: float) -> float:
    """Returns how many values an average effectively spans, 1 / (1 - beta).

    The values older than that have the weight beta^window, about 1/e.

    Args:
        beta: the average's share of itself in the next one, in [0, 1).

    Example:
        >>> import onepass
        >>> round(onepass.ema.window(0.999))
        1000
    """
    return 1.0 / (1.0 - checked_beta(beta))


def beta_for_window(window: float) -> float:
    """Returns the beta of an average that spans that many values, 1 - 1 / window.

    Args:
        window: the values, finite and at least 1; with 1 the average is the newest value.

    Example:
        >>> import onepass
        >>> onepass.ema.beta_for_window(10)
        0.9
    """
    beta = 1.0 - 1.0 / window if 1.0 <= window < float("inf") else float("nan")
    if not beta < 1.0:
        raise ValueError(f"Invalid window value: {window} (it must be in [1, 2^53])")
    return beta


def weight(beta: float, age: int) -> float:
    """Returns the weight of a value in an average, (1 - beta) beta^age.

    Args:
        beta: the average's share of itself in the next one, in [0, 1).
        age: how many values are newer, a whole number >= 0; the newest has age 0.

    Example:
        >>> import onepass
        >>> [round(onepass.ema.weight(0.9, age), 4) for age in range(3)]
        [0.1, 0.09, 0.081]
    """
    beta = checked_beta(beta)
    return (1.0 - beta) * beta ** checked_whole("age", age, 0)


def bias_corrected(average: _Number, beta: float, step: int) -> _Number:
    """Returns an average that started at zero without its pull to zero, x / (1 - beta^step).

    Args:
        average: a float or a tensor, after ``step`` updates.
        beta: the average's share of itself in the next one, in [0, 1).
        step: the number of updates so far, a whole number >= 1.

    Source:
        Kingma and Ba 2015, section 3.

    Example:
        >>> import onepass
        >>> round(onepass.ema.bias_corrected(0.19, 0.9, 2), 6)
        1.0
    """
    step = checked_whole("step", step, 1)
    return average / (1.0 - checked_beta(beta) ** step)


def update_(average: _Tensors, value: _Tensors, beta: float, step: int | None = None) -> _Tensors:
    """Moves averages towards new values, in place and in one pass over memory; returns them.

    .. code-block:: text

        average += w (value - average)
        w = 1 - beta                            without step: bit for bit torch.lerp
        w = (1 - beta) / (1 - beta^step)        with step

    With ``step`` the average is the bias-corrected one all along: it is what ``bias_corrected``
    makes of an average that started at zero. At step 1 the value is copied, whatever the average
    was.

    Args:
        average: a tensor, or several. What it holds is stored in its own dtype; arithmetic is
            float32, float64 where either tensor is.
        value: a tensor of the same shape, or as many; any floating dtype and strides.
        beta: the average's share of itself in the next one, in [0, 1).
        step: the number of this update, a whole number >= 1, or None for no correction (None).

    Raises:
        ValueError: beta or step is out of its range.
        RuntimeError: a tensor does not fit. Nothing has changed then.

    Differs from torch.lerp in:
        several tensors in one call, dtypes that differ, every layout at the same bits. (Where torch
        has no vector kernels its last bit may be another, see docs/design.md.)

    Example:
        >>> import torch, onepass
        >>> average = torch.zeros(2)
        >>> onepass.ema.update_(average, torch.ones(2), beta=0.9)
        tensor([0.1000, 0.1000])
    """
    beta = checked_beta(beta)
    at = None if step is None else _number(checked_whole("step", step, 1))
    averages = [average] if isinstance(average, Tensor) else list(average)
    values = [value] if isinstance(value, Tensor) else list(value)
    try:
        with torch.no_grad():
            torch.ops.onepass.ema_(averages, values, beta=_number(beta), step=at)
    except NotImplementedError:  # the dispatcher's, about none of the tensors in particular
        for k, pair in enumerate(zip(averages, values, strict=True)):
            for role, tensor in zip(("the data", "the value"), pair, strict=True):
                _check_kind(f"{role} of averages[{k}]", tensor)
        raise
    return average


def _check_kind(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.device.type not in ("cpu", "cuda", "meta"):
        raise RuntimeError(
            f"{name} has layout {tensor.layout} on {tensor.device}; onepass takes dense (strided) "
            "tensors on the CPU and CUDA devices"
        )


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device="cpu")
