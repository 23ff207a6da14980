"""The walk through a model's tensors, spared while the model holds the very same ones.

torch walks by generators, name by name, which takes longer than many a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module


class ModelWalk:
    """What was found in a module, and whether another walk would find the same."""

    def __init__(self, model: Module, found: tuple[list[str], list[Tensor]]) -> None:
        """Notes what each of the module's modules holds."""
        self.result = found
        self._modules = list(model.modules())
        self._holds = [_holdings(module) for module in self._modules]
        self._is_plain = all(map(_walks_as_torch, self._modules))

    def holds(self) -> bool:
        """Returns whether all modules hold the modules, parameters and buffers that they held.

        The modules are compared by identity: they are kept, so that none takes the address of
        another.
        """
        if not self._is_plain:
            return False
        return all(map(_is_held, self._modules, self._holds))


_Holdings = tuple[tuple[Any, ...], ...]


def _holdings(module: Module) -> _Holdings:
    return tuple(
        tuple(part) for table in _tables(module) for part in (table.keys(), table.values())
    )


def _tables(module: Module) -> Iterator[dict[str, Any]]:
    yield module._parameters
    yield module._buffers
    yield module._modules


def _is_held(module: Module, holdings: _Holdings) -> bool:
    held = iter(holdings)
    for table in _tables(module):
        names, values = next(held), next(held)
        if tuple(table) != names:
            return False
        if not all(map(is_, table.values(), values)):
            return False
    return True


def _walks_as_torch(module: Module) -> bool:
    """Returns whether the module's walks are torch's own, and change nothing on their way."""
    own = type(module)
    walks = ("modules", "named_modules", "named_parameters", "named_buffers", "named_children")
    is_own = all(getattr(own, walk) is getattr(torch.nn.Module, walk) for walk in walks)
    return is_own and not hasattr(module, "set_reshard_after_forward")
