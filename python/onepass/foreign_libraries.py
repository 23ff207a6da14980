"""The libraries whose checkpoints are read: their keys, how they decode states, their options."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .foreign_states import Entry, Source

# ---- states of floats


def _floats(entry: Entry, key: str) -> Tensor:
    return entry.floats(key)


def _as_it_is(entry: Entry, key: str, value: Tensor, steps: int) -> Tensor:
    return value


def _uncorrected(entry: Entry, key: str, value: Tensor, steps: int) -> Tensor:
    """Returns a mean of optimi as torch keeps it; optimi corrects the bias in place."""
    if entry.algorithm in ("SGD", "Momentum", "Lion"):
        return value
    if key == "prev_grad":
        return -value
    if not steps:
        raise entry.unlike("has moments but counts no steps, which tell their bias")
    position = list(entry.present()).index(key) + 1
    return value * (1 - entry.option(f"beta{position}") ** steps)


def _negated_gradient(entry: Entry, key: str, value: Tensor, steps: int) -> Tensor:
    return -value if key == "previous_grad" else value


# ---- states of few bits


def _blocks(numbers: Tensor, scales: Tensor, size: int) -> Tensor:
    """Multiplies blocks of a tensor, flattened, by their scales; the last block may be short."""
    flat = numbers.reshape(-1)
    whole = pad(flat, (0, -flat.numel() % size)).view(-1, size)
    return (whole * scales.view(-1, 1)).view(-1)[: flat.numel()].view(numbers.shape)


def _by_table(entry: Entry, key: str) -> Tensor:
    """Decodes bitsandbytes: a table's number for each code, times the largest one of its block."""
    if f"absmax{key[-1]}" not in entry.values:
        return entry.floats(key)
    codes = entry.part(key, (torch.uint8,))
    table = entry.part(f"qmap{key[-1]}", (torch.float32,), 256)
    scales = entry.part(f"absmax{key[-1]}", (torch.float32,))
    size = next((n for n in (256, 2048) if scales.numel() == math.ceil(codes.numel() / n)), None)
    if size is None:
        raise ValueError(
            f"{entry.label(f'absmax{key[-1]}')} has {scales.numel()} elements, but "
            f"{codes.numel()} codes have {math.ceil(codes.numel() / 256)} blocks of 256"
        )
    return _blocks(table[codes.int()], scales, size)


def _by_subclass(entry: Entry, key: str) -> Tensor:
    """Decodes torchao, whose states decode themselves where they are not floats."""
    value = entry.values[key]
    codes, scales = getattr(value, "codes", None), getattr(value, "scale", None)
    if not (isinstance(value, Tensor) and isinstance(codes, Tensor) and isinstance(scales, Tensor)):
        if isinstance(value, Tensor) and hasattr(value, "to_local"):
            raise ValueError(f"{entry.label(key)} is a DTensor; gather it with full_tensor() first")
        return entry.floats(key)
    try:
        return value.dequantize()
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{entry.label(key)} cannot be decoded: {error}") from error


def _by_groups_of_32(entry: Entry, key: str) -> Tensor:
    """Decodes FlashOptim: companded integers, times the largest number of each 32."""
    if key in entry.values:
        return entry.floats(key)
    is_square = key == "exp_avg_sq"
    codes_key, scales_key = _flash_parts(key)
    codes = entry.part(codes_key, (torch.uint8 if is_square else torch.int8,))
    if not codes.is_contiguous():
        raise ValueError(f"{entry.label(codes_key)} must be contiguous, as FlashOptim's steps need")
    count = math.ceil(codes.numel() / 32)
    scales = entry.part(scales_key, (torch.float16, torch.bfloat16), count)
    scales = scales.view(torch.float16).float()  # its bits: bfloat16 is the parameter's dtype
    if is_square:
        root = _blocks(codes.float() / 255.0, scales, 32)
        return root * root
    softened = codes.float() / 127.0
    return _blocks(softened / (2.0 - softened.abs()), scales, 32)


def _flash_parts(key: str) -> tuple[str, ...]:
    return f"{key}::quantized", f"{key}::scales"


def _bnb_parts(key: str) -> tuple[str, ...]:
    return key, f"qmap{key[-1]}", f"absmax{key[-1]}"


def _no_parts(key: str) -> tuple[str, ...]:
    return ()


# ---- options

_OPTIONS = (
    *("lr", "betas", "eps", "weight_decay", "momentum", "dampening", "nesterov", "maximize"),
    *("amsgrad", "initial_lr", "param_names"),
)


def _same_names(group: dict[str, Any], algorithm: str) -> dict[str, Any]:
    return {key: group[key] for key in _OPTIONS if key in group}


def _of_bitsandbytes(group: dict[str, Any], algorithm: str) -> dict[str, Any]:
    """Their Adam decouples its decay; the first beta is SGD's momentum and RMSprop's alpha."""
    found = _same_names(group, algorithm) | {"decoupled_weight_decay": True}
    name, betas = {"SGD": "momentum", "RMSprop": "alpha"}.get(algorithm), group.get("betas")
    if name and isinstance(betas, (list, tuple)) and betas:
        found[name] = betas[0]
    return found | ({"momentum": 0} if algorithm == "RMSprop" else {})  # theirs is without effect


def _of_optimi(group: dict[str, Any], algorithm: str) -> dict[str, Any]:
    found = _same_names(group, algorithm)
    betas = [group[f"beta{k}"] for k in (1, 2, 3) if f"beta{k}" in group]
    if betas:
        found["betas"] = tuple(betas)
    if "dampening" in group:  # a flag there
        found["dampening"] = group.get("momentum", 0.0) if group["dampening"] else 0.0
    decouples_lr = bool(group.get("decouple_lr"))
    found["decoupled_weight_decay"] = decouples_lr or bool(group.get("decouple_wd"))
    if decouples_lr:
        found["decouple_lr"] = True
        found |= {"reference_lr": group["max_lr"]} if group.get("max_lr") else {}
    return found


def _of_pytorch_optimizer(group: dict[str, Any], algorithm: str) -> dict[str, Any]:
    found = _same_names(group, algorithm)
    if "weight_decouple" in group:
        found["decoupled_weight_decay"] = bool(group["weight_decouple"])
    return found


# ---- the libraries


def _source(name: str, states: dict[str, dict[str, str]], **differing: Any) -> Source:
    """Returns a source that has floats under the names of torch, but for what differs."""
    usual: dict[str, Callable[..., Any]] = {
        "read": _floats,
        "finish": _as_it_is,
        "options": _same_names,
        "parts": _no_parts,
    }
    return Source(name, states, **{**usual, **differing})


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_ADAM = _same("exp_avg", "exp_avg_sq")
_AMSGRAD = _same("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_BUFFER = _same("momentum_buffer")
_FIRST = {"state1": "exp_avg", "state2": "exp_avg_sq"}
_OPTIMI_ADAN = _same("exp_avg", "exp_avg_diff", "exp_avg_sq") | {"prev_grad": "prev"}
_THEIR_ADAN = _same("exp_avg", "exp_avg_diff", "exp_avg_sq") | {"previous_grad": "prev"}

_EVERY = (
    _source(
        "apex",
        {"Adam": _ADAM, "AdamW": _ADAM, "LAMB": _ADAM, "SGD": _BUFFER, "Adagrad": _same("sum")},
        optional=frozenset({"momentum_buffer"}),
    ),
    _source(
        "bitsandbytes",
        {
            "Adam": _FIRST,
            "AdamW": _FIRST,
            "Lion": {"state1": "exp_avg"},
            "SGD": {"state1": "momentum_buffer"},
            "Adagrad": {"state1": "sum"},
            "RMSprop": {"state1": "square_avg"},
        },
        read=_by_table,
        options=_of_bitsandbytes,
        parts=_bnb_parts,
        dropped=frozenset({"unorm_vec"}),
        wrapper="__bnb_optimizer_quant_state__",
    ),
    _source(
        "deepspeed",
        {
            "Adam": _ADAM,
            "AdamW": _ADAM,
            "LAMB": _ADAM,
            "Lion": _same("exp_avg"),
            "Adagrad": {"exp_avg_sq": "sum"},
        },
        dropped=frozenset({"exp_avg_sq"}),
        counts_for_groups=True,
    ),
    _source(
        "flashoptim",
        {"Adam": _ADAM, "AdamW": _ADAM, "Lion": _same("exp_avg"), "SGD": _BUFFER},
        read=_by_groups_of_32,
        parts=_flash_parts,
        optional=frozenset({"momentum_buffer"}),
        dropped=frozenset({"error_bits"}),
    ),
    _source(
        "optimi",
        {
            **dict.fromkeys(("Adam", "AdamW", "RAdam"), _ADAM),
            "Adan": _OPTIMI_ADAN,
            "Lion": _same("exp_avg"),
            "SGD": {"exp_avg": "momentum_buffer"},
            "Momentum": _same("exp_avg"),
        },
        finish=_uncorrected,
        options=_of_optimi,
        dropped=frozenset({"kahan_comp"}),
    ),
    _source(
        "pytorch_optimizer",
        {
            "Lion": _same("exp_avg"),
            "AdaBelief": _same("exp_avg", "exp_avg_var"),
            "Adamax": _same("exp_avg", "exp_inf"),
            "RAdam": _ADAM,
            "ADOPT": _ADAM,
            "Adan": _THEIR_ADAN,
            "NovoGrad": {"moments": "exp_avg", "grads_ema": "exp_avg_sq"},
        },
        finish=_negated_gradient,
        options=_of_pytorch_optimizer,
    ),
    _source(
        "torchao",
        {"Adam": _AMSGRAD, "AdamW": _AMSGRAD},
        read=_by_subclass,
        optional=frozenset({"max_exp_avg_sq"}),
    ),
)
SOURCES = {source.name: source for source in _EVERY}
