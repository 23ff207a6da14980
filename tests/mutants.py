"""State dicts gone wrong: single changes to a valid one, by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

StateDict = Any
Mutation = tuple[str, Callable[[StateDict], Any]]  # may return another object in place of the dict

NOTHINGS: dict[str, Any] = {
    "None": None,
    "5": 5,
    "nan": float("nan"),
    "text": "text",
    "bytes": b"bytes",
    "list": [1.0],
    "empty list": [],
    "tuple": (1.0,),
    "dict": {"x": 1.0},
    "empty dict": {},
    "object": object(),
    "class": Tensor,
    "array": np.arange(2.0),
}


def tensors_instead_of(good: Tensor) -> dict[str, Tensor]:
    """Returns what may be loaded in place of a state, right or wrong."""
    shape, ones = tuple(good.shape), good.new_ones
    made = {
        "flattened": good.reshape(-1)[:, None],
        "one more dimension": good[None],
        "first row": good[0],
        "one row more": ones((shape[0] + 1, *shape[1:])),
        "0-dim": ones(()),
        "empty": ones(0),
        "empty with dimensions": ones((0, *shape)),
        "huge": ones(1).expand(1 << 40),
        "reversed": ones((*shape[::-1], 1)),
        "sparse": good.to_sparse(),
        "meta": good.to("meta"),
        "expanded": ones(1).expand(shape),
        "transposed in memory": good.T.contiguous().T,
        "with gaps": torch.stack([good, good], -1)[..., 1],
        "offset": torch.cat([good, good])[shape[0] :],
        "a leaf": good.detach().clone().requires_grad_(),
        "not a leaf": good.detach().clone().requires_grad_() * 1,
        "parameter": torch.nn.Parameter(good.detach().clone()),
        "huge numbers": good * 1e30,
        "nested": torch.nested.nested_tensor([ones(2), ones(3)], layout=torch.jagged),
    }
    with torch.inference_mode():
        made["inference"] = good.clone()
    types = (torch.float64, torch.bfloat16, torch.float16, torch.float32, torch.complex64)
    types += (torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn)
    for dtype in types:
        made[str(dtype)] = (good.real if good.is_complex() else good).to(dtype)
    if good.is_complex():
        made["lazily conjugated"] = good.conj()
    return made


def numbers() -> dict[str, Any]:
    """Returns what may be loaded as a step or another number, right or wrong."""
    numbers = [3, 3.0, True, 0, -1, 0.5, -0.0, 1e300, float("inf"), 1j, 2**24]
    made: dict[str, Any] = {repr(number): number for number in numbers}
    made["10**400"] = 10**400
    for value in ([1.0, 2.0], [], [3.0], [[3.0]], float("nan"), -1.0, 0.5, 1e30, True, 3, 1j):
        made[f"tensor {value}"] = torch.tensor(value)
    for dtype in (torch.int32, torch.float16, torch.float64, torch.float8_e5m2):
        made[f"{dtype} tensor"] = torch.tensor(2).to(dtype)
    made["meta"] = torch.zeros((), device="meta")
    made["sparse"] = torch.ones(1).to_sparse()
    made["expanded"] = torch.ones(()).expand(4)
    made["a leaf"] = torch.ones((), requires_grad=True)
    made["numpy scalar"] = np.float64(3.0)
    return made


def entry_mutations(good: StateDict, params: list[int]) -> Iterator[Mutation]:
    """Yields one change to one entry of one parameter's state."""
    for index in params:
        for key, value in good["state"][index].items():
            instead = tensors_instead_of(value) if value.dim() else numbers()
            for name, wrong in {**instead, **NOTHINGS}.items():
                yield f"{key} of {index}: {name}", _set_entry(index, key, wrong)
            yield (
                f"{key} of {index}: missing",
                lambda d, i=index, k=key: _none(d["state"][i].pop(k)),
            )
            yield (
                f"{key} of {index}: renamed",
                lambda d, i=index, k=key: d["state"][i].__setitem__(k + "s", d["state"][i].pop(k)),
            )


def state_mutations() -> Iterator[Mutation]:
    """Yields changes to the states as a whole."""
    for name, wrong in {**NOTHINGS, "tensor": torch.ones(3), "only a step": {"step": 1.0}}.items():
        yield f"state of 0: {name}", lambda d, w=wrong: d["state"].__setitem__(0, w)
        yield f"state: {name}", lambda d, w=wrong: d.__setitem__("state", w)
        yield f"state of a stranger: {name}", lambda d, w=wrong: d["state"].__setitem__(77, w)
    yield "state of 0: missing", lambda d: _none(d["state"].pop(0))
    yield "state: missing", lambda d: _none(d.pop("state"))
    yield "states swapped", lambda d: d["state"].update({0: d["state"][1], 1: d["state"][0]})
    yield "text as keys", lambda d: d.update(state={str(k): v for k, v in d["state"].items()})
    for key in ("note", 5, None, ("a", "tuple")):
        for value in (torch.ones(2), [torch.ones(2)], "text", float("nan")):
            yield (
                f"extra {key!r}: {type(value).__name__}",
                lambda d, k=key, v=value: d["state"][0].__setitem__(k, v),
            )


def group_mutations(good: StateDict) -> Iterator[Mutation]:
    """Yields changes to the list of groups and to one group."""
    for name, wrong in {**NOTHINGS, "group": copy.deepcopy(good["param_groups"][0])}.items():
        yield f"param_groups: {name}", lambda d, w=wrong: d.__setitem__("param_groups", w)
        # Copied, so that a change after this one is of this mutant alone.
        yield f"group: {name}", lambda d, w=wrong: d["param_groups"].__setitem__(0, copy.copy(w))
        yield f"params: {name}", lambda d, w=wrong: d["param_groups"][0].__setitem__("params", w)
    yield "param_groups: missing", lambda d: _none(d.pop("param_groups"))
    yield "param_groups: twice", lambda d: d["param_groups"].extend(d["param_groups"])
    yield "param_groups: a tuple", lambda d: d.update(param_groups=tuple(d["param_groups"]))
    for ids in ([0], [0, 1, 2], [1, 0], ["0", "1"], [[0], [1]], (0, 1), range(2), [-1, -2]):
        yield f"params: {ids}", lambda d, w=ids: d["param_groups"][0].__setitem__("params", w)
    wrong_options = {**NOTHINGS, "-1": -1.0, "inf": float("inf"), "tensor": torch.ones(2)}
    for key in good["param_groups"][0]:
        yield f"{key}: missing", lambda d, k=key: _none(d["param_groups"][0].pop(k))
        for name, wrong in wrong_options.items() if key != "params" else ():
            yield (
                f"{key}: {name}",
                lambda d, k=key, w=wrong: d["param_groups"][0].__setitem__(k, w),
            )


def whole_mutations() -> Iterator[Mutation]:
    for name, wrong in NOTHINGS.items():
        yield f"everything: {name}", lambda d, w=wrong: w


def apply(mutation: Mutation, good: StateDict) -> StateDict:
    """Returns a mutant and leaves the valid state dict as it is."""
    mutant = copy.deepcopy(good)
    other = mutation[1](mutant)
    return mutant if other is None else other


def _set_entry(index: int, key: str, value: Any) -> Callable[[StateDict], None]:
    return lambda d: d["state"][index].__setitem__(key, value)


def _none(_: object) -> None:
    return None
