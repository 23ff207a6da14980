"""How a DTensor and its gradient are placed, and what messages call a parameter."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ._torch import Spec, spec_of
from .parts import is_dtensor
from .state import parameter_name


class Place(NamedTuple):
    """Where a parameter is among the groups, so that a message can name it."""

    group: dict[str, Any]
    group_index: int
    number: int

    def __str__(self) -> str:
        """Returns what messages call the parameter, made where there is one."""
        return parameter_name(*self)


def check_placement(param: Tensor, grad: Tensor, place: Place) -> Spec | None:
    """Returns mesh and placements of a DTensor; what no collective makes of one mind is refused."""
    is_spread = is_dtensor(param)
    if is_dtensor(grad) != is_spread:
        raise TypeError(
            f"{place} is a {type(param).__name__}, but its gradient is a {type(grad).__name__}; "
            "make both DTensors, with distribute_tensor() or DTensor.from_local(), or neither"
        )
    if not is_spread:
        return None
    mesh, placements = spec = spec_of(param)
    grad_mesh, grad_placements = spec_of(grad)
    if grad_mesh != mesh:
        raise TypeError(
            f"{place} is placed as {placements} on {mesh}, but its gradient as {grad_placements} "
            f"on {grad_mesh}; bring both to one mesh"
        )
    for placement in placements:
        if placement.is_partial():
            raise TypeError(
                f"{place} is placed as {placements}, and its gradient as {grad_placements}: each "
                "process holds a summand of the parameter, and steps of the summands do not add up "
                "to its step; redistribute the parameter"
            )
    return spec
