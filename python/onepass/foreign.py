"""Optimizer checkpoints of other libraries, as state dicts in torch's layout."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .convert import class_named, did_you_mean
from .foreign_libraries import SOURCES
from .foreign_states import Entry, Source, unwrapped
from .loading import wrap_states
from .optimizer import OnePass
from .options import REFERENCE_LR
from .rules import RULES
from .state import as_number, parameter_name

# Steps of these do not depend on how many were taken before, and some libraries do not count them.
_UNCOUNTED = ("SGD", "Momentum", "Lion", "Adagrad", "RMSprop")
_KEPT = ("initial_lr", REFERENCE_LR, "param_names")  # beside the options of a class
# Every library saves those of them that the algorithm has.
_SAVED = ("lr", "betas", "eps", "weight_decay", "momentum", "alpha")


def convert_state_dict(
    state_dict: Mapping[str, Any],
    source: str,
    algorithm: str | type[OnePass],
    **options: Any,
) -> dict[str, Any]:
    """Returns another library's optimizer checkpoint as a state dict that onepass and torch load.

    States are float32, decoded as the library decodes them, and have torch's names; ``step`` is a
    float32 tensor, and groups have the options of the class. What is float32 already is shared with
    the checkpoint, which is not changed. The library need not be installed, but for torchao: its
    states are subclasses of Tensor, which ``torch.load`` makes only where torchao is installed.

    Args:
        state_dict: the ``state_dict()`` of the library's optimizer.
        source: ``apex``, ``bitsandbytes``, ``deepspeed``, ``flashoptim``, ``optimi``,
            ``pytorch_optimizer`` or ``torchao``; case, ``_`` and ``-`` do not count.
        algorithm: the class of onepass that the result is for, or its name. docs/migration.md tells
            which class does what theirs did; some state dicts do not say of which class they are.
        options: arguments of that class that the checkpoint does not hold, such as
            ``maximize=True``; where it holds them its own count.

    Raises:
        ValueError: there is no such source or class, the source's states of that class are not
            known, or a state or group does not look like one of the source.
        TypeError: the class has no such option, or an option has a wrong type.

    Example:
        >>> import torch, onepass
        >>> theirs = {"state1": torch.full((2,), 0.5)}  # what bitsandbytes saves for Lion
        >>> group = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.0, "params": [0]}
        >>> saved = {"state": {0: {"step": 3, **theirs}}, "param_groups": [group]}
        >>> moved = onepass.convert_state_dict(saved, "bitsandbytes", "Lion")
        >>> moved["state"]
        {0: {'step': tensor(3.), 'exp_avg': tensor([0.5000, 0.5000])}}
        >>> onepass.Lion([torch.zeros(2)]).load_state_dict(moved)
    """
    name = algorithm if isinstance(algorithm, str) else getattr(algorithm, "__name__", "")
    cls = class_named(name)
    theirs = _source_named(source, cls)
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"a state dict must be a dict, got {state_dict!r}")
    plain = wrap_states(state_dict)
    groups = [
        _group(theirs, cls, group, i, options) for i, group in enumerate(plain["param_groups"])
    ]
    entries = _entries(theirs, cls, plain)
    steps = {key: _steps(entry) for key, entry in entries.items() if entry.values}
    if theirs.counts_for_groups:
        _share_steps(steps, groups)
    state = {key: _state(entry, cls, steps.get(key)) for key, entry in entries.items()}
    return {**state_dict, "state": state, "param_groups": groups}


def _entries(source: Source, cls: type, plain: dict[str, Any]) -> dict[Any, Entry]:
    """Returns the states of parameters; one that does not look like the source's is refused."""
    places = {
        key: (group, parameter_name(group, i, k))
        for i, group in enumerate(plain["param_groups"])
        for k, key in enumerate(group["params"])
    }
    entries = {}
    for key, saved in plain["state"].items():
        if key not in places:
            raise ValueError(f"the state dict has a state for {key!r}, which is in no group")
        group, name = places[key]
        entries[key] = Entry(source, cls.__name__, name, unwrapped(source, saved.state), group)
        entries[key].check()
    return entries


def _source_named(name: str, cls: type) -> Source:
    """Returns a source that knows a class, or raises a ValueError that says which there are."""
    known = {source.replace("_", ""): source for source in SOURCES}
    wanted = str(name).lower().replace("_", "").replace("-", "")
    if wanted not in known:
        raise ValueError(
            f"convert_state_dict() knows no source {name!r}{did_you_mean(wanted, SOURCES) or '.'} "
            f"It knows {', '.join(SOURCES)}; a state dict of torch loads as it is"
        )
    source = SOURCES[known[wanted]]
    if cls.__name__ not in source.states:
        raise ValueError(
            f"no state of {source.name} is known that onepass.{cls.__name__} could take over; "
            f"those of {', '.join(source.states)} are"
        )
    return source


def _group(
    source: Source, cls: Any, group: dict[str, Any], index: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Returns a parameter group with all options of our class: theirs, then the user's."""
    if not group.get("bias_correction", True):
        raise ValueError(
            f"parameter group {index} has bias_correction={group['bias_correction']!r}, but "
            f"onepass.{cls.__name__} always corrects; set it to True there to take the states over "
            "all the same"
        )
    known = inspect.signature(cls).parameters
    found = {
        key: float(value) if isinstance(value, Tensor) and value.numel() == 1 else value
        for key, value in source.options(group, cls.__name__).items()
    }
    held = {key: value for key, value in found.items() if key in known}
    lacking = [key for key in _SAVED if key in known and key not in {**options, **held}]
    if lacking:
        raise ValueError(
            f"parameter group {index} lacks the {lacking[0]} that {source.name} saves for "
            f"onepass.{cls.__name__}; give it as a keyword"
        )
    try:
        complete = cls([torch.empty(0, device="cpu")], **{**options, **held}).defaults
    except (TypeError, ValueError) as error:
        raise type(error)(f"parameter group {index}: {error}") from error
    beside = {key: found[key] for key in _KEPT if key in found}
    return {**complete, **held, **beside, "params": group["params"]}


def _steps(entry: Entry) -> Tensor:
    """Returns how many steps a parameter has taken, which may stand in its group."""
    label = entry.label("step")
    count = entry.values.get("step", entry.group.get("step"))
    if count is None and entry.algorithm in _UNCOUNTED:
        count = 0
    if count is None:
        raise entry.unlike("lacks 'step', and so does its group")
    if isinstance(count, Tensor) and count.numel() != 1:
        raise ValueError(f"{label} must be one number, got a tensor of shape {list(count.shape)}")
    steps = as_number(label, count, True, {}, torch.device("cpu"))
    return steps.to(torch.float32).reshape(())


def _share_steps(steps: dict[Any, Tensor], groups: list[dict[str, Any]]) -> None:
    """Gives all parameters of a group the count of the one that counted for all.

    A state is made by a step, so a parameter that has one and counts 0 was counted elsewhere.
    """
    for group in groups:
        members = [key for key in group["params"] if key in steps]
        if any(not steps[key] for key in members):
            most = max(steps[key] for key in members)
            steps.update((key, most.clone()) for key in members)


def _state(entry: Entry, cls: Any, steps: Tensor | None) -> dict[str, Tensor]:
    if steps is None:  # an empty state, as of a parameter without a gradient
        return {}
    rule = RULES[cls.rule]
    state = {"step": steps} if rule.counts_steps else {}
    numbers = {one.name for one in rule.numbers}
    shapes: list[torch.Size] = []
    for key, name in entry.present().items():
        value = entry.source.finish(entry, key, entry.source.read(entry, key), int(steps))
        shapes += [] if name in numbers else [value.shape]
        wanted = torch.Size() if name in numbers else shapes[0]
        if value.shape != wanted:
            raise ValueError(
                f"{entry.label(key)} has shape {list(value.shape)}, but must have shape "
                f"{list(wanted)} beside its other states"
            )
        state[name] = value
    return state
