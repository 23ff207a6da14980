"""What is stepped: shapes of parameters, group by group."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from benchmarks.models import Groups

KI, MI = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Workload:
    """A list of parameter groups.

    Args:
        name: how the workload is called in tables and on the command line.
        groups: for each parameter group the shapes of its tensors.
        promises: how many times as fast as others onepass's AdamW has to be.
        dtype: of all tensors.
    """

    name: str
    groups: Groups
    promises: Mapping[str, float] = field(default_factory=dict)
    dtype: str = "float32"

    @property
    def tensors(self) -> int:
        return sum(len(group) for group in self.groups)

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for group in self.groups for shape in group)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


def one_tensor(elements: int) -> Groups:
    return (((elements,),),)


def one_group(tensors: int, elements: int) -> Groups:
    return (((elements,),) * tensors,)


def group_per_tensor(groups: int, elements: int) -> Groups:
    return (((elements,),),) * groups


def sized(elements: int) -> str:
    """How a number of elements is called."""
    for unit, name in ((MI, "Mi"), (KI, "Ki")):
        if elements % unit == 0:
            return f"{elements // unit} {name}"
    return str(elements)
