"""Which tensor of a model belongs to which average: by name, and where names differ by order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# The modules that torch puts around others: DataParallel and DDP, torch.compile, FSDP and
# activation checkpointing. A name that differs in them alone means the same tensor.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def named(source: Any, use_buffers: bool) -> dict[str, Tensor]:
    """Returns tensors by name, tied ones under each of their names."""
    found: dict[str, Tensor] = {}
    if isinstance(source, torch.nn.Module):
        reshard(source)
        found.update(source.named_parameters(remove_duplicate=False))
        if use_buffers:
            found.update(source.named_buffers(remove_duplicate=False))
        return found
    if isinstance(source, Tensor):
        raise TypeError("params must be a module or an iterable of tensors, got one tensor")
    for k, item in enumerate(source.items() if isinstance(source, dict) else source):
        name, tensor = item if isinstance(item, tuple) else (str(k), item)
        if not isinstance(tensor, Tensor):
            raise TypeError(f"params must hold tensors or (name, tensor) pairs, got {item!r}")
        if name in found:
            raise ValueError(f"params must have different names, got {name!r} twice")
        found[name] = tensor
    return found


def reshard(model: torch.nn.Module) -> None:
    """Lets modules under fully_shard hold their parts: an evaluation may leave them gathered."""
    for module in model.modules():
        if hasattr(module, "set_reshard_after_forward"):  # FSDPModule's alone
            module.reshard()  # type: ignore[operator]


def unsaved(source: Any) -> set[str]:
    """Returns the names of the buffers that a module leaves out of its state dict."""
    if not isinstance(source, torch.nn.Module):
        return set()
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in source.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }


def positions(weights: dict[str, Tensor]) -> dict[str, int]:
    """Returns for each name the position of its tensor, tied names of one tensor counted once."""
    seen: dict[int, int] = {}
    return {name: seen.setdefault(id(tensor), len(seen)) for name, tensor in weights.items()}


def distinct(weights: dict[str, Tensor]) -> list[Tensor]:
    """Returns each tensor once, in the order of ``positions``."""
    return list({id(tensor): tensor for tensor in weights.values()}.values())


def unwrapped(name: Any) -> Any:
    """Returns a name without the parts that wrappers put into it."""
    if not isinstance(name, str):
        return name
    *modules, last = name.split(".")
    return ".".join([*(part for part in modules if part not in _WRAPPERS), last])


def comparable(*sides: Iterable[Any]) -> list[dict[Any, Any]]:
    """Returns each side by names without wrappers, or by its own where two would be the same."""
    named_by = [{unwrapped(name): name for name in side} for side in sides]
    if all(len(names) == len(list(side)) for names, side in zip(named_by, sides, strict=True)):
        return named_by
    return [{name: name for name in side} for side in sides]


def matched(
    averages: Sequence[Tensor], expected: dict[str, int], weights: dict[str, Tensor]
) -> list[Tensor]:
    """Returns the tensors of a model in the order of the averages that they belong to."""
    tensors, found = distinct(weights), positions(weights)
    ours, theirs = comparable(expected, found)
    same = {n: (expected[ours[n]], found[theirs[n]]) for n in ours.keys() & theirs.keys()}
    odd = ours.keys() ^ theirs.keys()
    if not odd and len({*same.values()}) == len(tensors) == len(averages):
        return [tensors[there] for _, there in sorted({*same.values()})]
    # As in AveragedModel the order decides where names differ; but no name may contradict it.
    if len(tensors) != len(averages) or any(here != there for here, there in same.values()):
        odd = odd or {
            name
            for name, (here, there) in same.items()
            if unwrapped(_name_at(expected, here)) != unwrapped(_name_at(found, there))
        }
        raise ValueError(
            "the tensors are not those that are averaged, or tied or ordered otherwise: the model "
            f"has {len(tensors)}, the average {len(averages)}, and they differ in "
            f"{sorted(map(str, odd))[:8]}; make a new EMA after changing the model"
        )
    for k, (average, tensor) in enumerate(zip(averages, tensors, strict=True)):
        if average.shape != tensor.shape:
            raise ValueError(
                f"'{_name_at(found, k)}', tensor {k} of the model, has shape "
                f"{list(tensor.shape)}, but '{_name_at(expected, k)}', tensor {k} of the average, "
                f"has shape {list(average.shape)}; the names differ, so the order must be the same"
            )
    return tensors


def _name_at(places: dict[str, int], position: int) -> str:
    return next(name for name, place in places.items() if place == position)


def fitting(
    state_dict: Mapping[Any, Any], names: Iterable[str], source: Any
) -> tuple[Any, dict[str, Any]]:
    """Returns under which keys a state dict has the count of updates and each average."""
    key_of = {name: f"module.{name}" for name in names}
    all_keys = {f"module.{name}" for name in named(source, True)}
    wanted, known, given = comparable(["n_averaged", *key_of.values()], all_keys, state_dict)
    optional = {f"module.{name}" for name in unsaved(source)}
    missing = {key for plain, key in wanted.items() if plain not in given} - optional
    unknown = {
        str(key)
        for plain, key in given.items()
        if not (plain in wanted or plain in known or str(key).endswith("_extra_state"))
    }
    if missing or unknown:
        raise ValueError(
            f"the state dict does not fit: missing are {sorted(missing)}, unknown are "
            f"{sorted(unknown)}; load a state dict of this model"
        )
    given_as = {key: given[plain] for plain, key in wanted.items() if plain in given}
    return given_as["n_averaged"], {n: given_as[k] for n, k in key_of.items() if k in given_as}
