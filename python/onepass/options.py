"""Options of a parameter group: which torch lacks, how they stand there, what goes together.

An option that torch's class does not have stands in groups and in ``defaults`` only where it is in
use: absent means neutral. So they hold what torch's class holds, its distributed checkpoints fit,
and an option of a later version is not missed in a checkpoint of this one. Classes that torch does
not have follow the same rule for the options that all classes share.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

# Options of ours that torch's classes do not have, and those that only some of them have.
OURS = (
    "eps_root",
    "decouple_lr",
    "cautious",
    "state_dtype",
    "max_grad_norm",
    "skip_nonfinite",
    "stochastic_rounding",
    "state_rounding",
)
EVERYWHERE = ("capturable", "fused")
SHARED = (*OURS, *EVERYWHERE)
_FLAGS = ("decouple_lr", "cautious", "skip_nonfinite", "stochastic_rounding", *EVERYWHERE)

# The largest rate so far, in groups whose decay is decoupled from lr. No scheduler knows the key.
REFERENCE_LR = "reference_lr"


def options_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the options among the locals() of a constructor that has done nothing yet."""
    return {k: v for k, v in arguments.items() if k not in ("self", "params", "__class__")}


def torchs_class(cls: type) -> type | None:
    """Returns the class of torch that a class is of, if it is of any but the base of all."""
    base = next(base for base in cls.__mro__ if base.__module__.startswith("torch.optim"))
    return None if base is Optimizer else base


@functools.cache
def _torchs_arguments(cls: type) -> frozenset[str]:
    base = torchs_class(cls)
    return frozenset() if base is None else frozenset(inspect.signature(base).parameters)


def has_torchs(cls: type) -> bool:
    """Returns whether torch has a class of that name."""
    return torchs_class(cls) is not None


def torch_has(cls: type, name: str) -> bool:
    """Returns whether torch has a class of that name with that argument."""
    return name in _torchs_arguments(cls)


def _is_extra(cls: type, name: str) -> bool:
    """Returns whether an option is one that all classes share and torch's lacks."""
    return name in SHARED and not torch_has(cls, name)


def split(cls: type, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a constructor's options for torch's constructor, and the others that are in use."""
    extras = {name: value for name, value in options.items() if _is_extra(cls, name)}
    known = {name: value for name, value in options.items() if name not in extras}
    tidy(cls, extras, {})
    return known, extras


def dtype_name(value: Any) -> Any:
    """Returns the name of a dtype, which unlike the dtype fits into every kind of checkpoint."""
    if isinstance(value, (torch.dtype, str)):
        return str(value).removeprefix("torch.")
    return value


def _is_neutral(name: str, value: Any) -> bool:
    if value is None or name in ("max_grad_norm", "state_rounding"):  # of which 0 is an error
        return value is None
    return isinstance(value, (bool, int, float)) and not value


def tidy(cls: type, options: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Drops the neutral options that torch's class lacks; stores dtypes by name, rates as numbers.

    What differs from the defaults stays, neutral or not, so that loading does not bring it back.
    """
    for name in SHARED:
        if name not in options:
            continue
        if name == "state_dtype":
            options[name] = dtype_name(options[name])
        if _is_extra(cls, name) and _is_neutral(name, options[name]) and name not in defaults:
            del options[name]
    if isinstance(options.get(REFERENCE_LR), Tensor):
        options[REFERENCE_LR] = float(options[REFERENCE_LR])


def fill(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Gives a loaded group the constructor's options where its checkpoint does not know them."""
    for name in SHARED:
        if name in defaults:
            group.setdefault(name, defaults[name])


def check_options(group: dict[str, Any]) -> None:
    """Refuses what is no flag, and options that exclude each other, if it can in torch's words."""
    for name in _FLAGS:
        value = group.get(name)
        numpys = str(getattr(value, "dtype", "")) == "bool"
        if not (numpys or isinstance(value, (bool, int, type(None)))):
            raise ValueError(f"Invalid {name} value: {value!r} (it must be True or False)")
    if group.get("fused") and group.get("differentiable"):
        raise RuntimeError("`fused` does not support `differentiable`")
    if group.get("fused") and group.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    ours = [name for name in OURS if not _is_neutral(name, group.get(name))]
    if group.get("differentiable") and ours:
        raise ValueError(
            f"differentiable=True takes torch's own path, which has no {ours[0]}; leave one out"
        )


def warn_of_misspelt(cls: type, group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Warns of a key of a new group that is nearly an option: torch keeps any, without effect."""
    known = {*defaults, *SHARED, "params", "param_names", REFERENCE_LR}
    for key in group.keys() - known:
        near = difflib.get_close_matches(str(key), map(str, known), n=1, cutoff=0.85)
        if near:
            warnings.warn(
                f"a parameter group has {key!r}, which {cls.__name__} does not know and which has "
                f"no effect; did you mean {near[0]!r}?",
                stacklevel=4,
            )


def in_use(cls: type, group: dict[str, Any]) -> list[str]:
    """Returns the options in use that torch's class lacks."""
    lacks = [name for name in SHARED if not torch_has(cls, name)]
    return [name for name in lacks if not _is_neutral(name, group.get(name))]


def stores_codes(group: dict[str, Any]) -> bool:
    """Returns whether a group asks for states of 8 bits."""
    return bool(dtype_name(group.get("state_dtype")) == "int8")


def rounds_randomly(group: dict[str, Any]) -> bool:
    """Returns whether a group asks for stochastic rounding."""
    return bool(group.get("stochastic_rounding")) or group.get("state_rounding") is not None


def start_reference_rate(group: dict[str, Any]) -> None:
    """Starts the largest rate so far of a group that decouples its decay from lr.

    Where a scheduler has been at work before, as in a checkpoint that lacks ours, its keys tell of
    larger rates than lr.
    """
    if group.get("decouple_lr") and REFERENCE_LR not in group:
        told = [group.get(key) for key in ("initial_lr", "max_lr")]
        numbers = [one for one in told if isinstance(one, (int, float, Tensor))]
        rates = [float(one) for one in numbers if not isinstance(one, Tensor) or one.numel() == 1]
        group[REFERENCE_LR] = max([0.0, float(group["lr"]), *filter(math.isfinite, rates)])


def raise_reference_rate(group: dict[str, Any], found_inf: Tensor | None) -> None:
    """Keeps the largest rate so far, after a step that was not the native half's.

    A compiled step keeps a tensor: a comparison of numbers would be compiled anew for each rate.
    """
    if not group.get("decouple_lr"):
        return
    lr, largest = group["lr"], group.get(REFERENCE_LR, 0.0)
    if torch.compiler.is_compiling():
        device = lr.device if isinstance(lr, Tensor) else None
        zero = torch.zeros((), dtype=torch.float64, device=device)
        if found_inf is not None:  # a skipped step leaves it
            lr = torch.where(found_inf.to(zero.device) != 0, zero + largest, zero + lr)
        group[REFERENCE_LR] = torch.maximum((zero + largest).view(()), (zero + lr).view(()))
    elif not isinstance(lr, Tensor) and lr > largest:
        group[REFERENCE_LR] = float(lr)


def hand_over_reference_rates(source: list[dict[str, Any]], target: list[dict[str, Any]]) -> None:
    """Copies the largest rates so far from one list of groups to another."""
    for old, new in zip(source, target, strict=True):
        if REFERENCE_LR in old:
            new[REFERENCE_LR] = old[REFERENCE_LR]
