"""What another library's checkpoint holds of a parameter, refused where it does not look so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .state import readable


@dataclass(frozen=True)
class Source:
    """Describes a library's checkpoints: for each class of ours their keys, and our names."""

    name: str
    states: dict[str, dict[str, str]]
    read: Callable[[Entry, str], Tensor]
    finish: Callable[[Entry, str, Tensor, int], Tensor]  # a state that was read, after some steps
    options: Callable[[dict[str, Any], str], dict[str, Any]]  # of a group, under our names
    parts: Callable[[str], tuple[str, ...]]  # of a coded state; the codes first
    optional: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()  # nothing here needs them
    wrapper: str = ""  # the key of a dict within a state that holds some of it
    counts_for_groups: bool = False  # whether one parameter counts steps for all of its group


@dataclass(frozen=True)
class Entry:
    """A parameter's state in a checkpoint, and what messages call the parameter."""

    source: Source
    algorithm: str  # our class
    name: str
    values: Any
    group: dict[str, Any]

    def label(self, key: str) -> str:
        """Returns what messages call a state."""
        return f"'{key}' of {self.name}"

    def unlike(self, what: str) -> ValueError:
        """Returns the error of a state that the source would not have saved."""
        return ValueError(
            f"the state of {self.name} is not what {self.source.name} saves for an optimizer that "
            f"onepass.{self.algorithm} could go on with: it {what}"
        )

    def check(self) -> None:
        """Refuses a state without the source's keys or with others, before any is decoded."""
        if not isinstance(self.values, Mapping):
            raise self.unlike(f"is {self.values!r}")
        source, names = self.source, self.source.states[self.algorithm]
        missing = names.keys() - source.optional - self.present().keys()
        if self.values and missing:
            raise self.unlike(f"lacks {min(missing)!r}")
        known = {part for key in names for part in (key, *source.parts(key))}
        others = self.values.keys() - known - source.dropped - {"step", source.wrapper}
        if others:
            raise self.unlike(f"has {min(others, key=str)!r}")

    def present(self) -> dict[str, str]:
        """Returns the states that are there, whole or as codes: their keys, and our names."""
        return {
            key: name
            for key, name in self.source.states[self.algorithm].items()
            if any(self.values.get(one) is not None for one in (key, *self.source.parts(key)[:1]))
        }

    def option(self, key: str) -> float:
        """Returns a number of the parameter's group."""
        if not isinstance(self.group.get(key), (int, float)):
            raise self.unlike(f"has no number '{key}' in its group")
        return float(self.group[key])

    def floats(self, key: str) -> Tensor:
        """Returns a state of floats, of 32 bits at least."""
        value = self.values.get(key)
        if not (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.layout == torch.strided
        ):
            raise ValueError(
                f"{self.label(key)} must be a dense tensor of floats, got {_kind(value)}"
            )
        value = readable(self.label(key), value)
        return value if value.itemsize >= 4 else value.float()

    def part(self, key: str, dtypes: tuple[torch.dtype, ...], numel: int | None = None) -> Tensor:
        """Returns a plain tensor of a coded state, of one of some dtypes and of a size."""
        value = self.values.get(key)
        is_plain = type(value) is Tensor and value.layout == torch.strided
        if not is_plain or value.dtype not in dtypes:
            raise ValueError(
                f"{self.label(key)} must be a plain tensor of {' or '.join(map(str, dtypes))}, "
                f"got {_kind(value)}"
            )
        if numel is not None and value.numel() != numel:
            raise ValueError(
                f"{self.label(key)} has {value.numel()} elements, but must have {numel}"
            )
        return readable(self.label(key), value)


def unwrapped(source: Source, values: Any) -> Any:
    """Returns a state with what stands in a dict of its own beside the rest."""
    if not isinstance(values, Mapping) or not isinstance(values.get(source.wrapper), Mapping):
        return values
    return {**values, **values[source.wrapper]}


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {type(value).__name__} of {value.dtype} and layout {value.layout}"
    return repr(value)
