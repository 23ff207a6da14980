"""What is stepped: the table of workloads (shapes of the parameters, group by group)."""

import math
from dataclasses import dataclass

Shape = tuple[int, ...]
Groups = tuple[tuple[Shape, ...], ...]

KI, MI = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Workload:
    """A list of parameter groups.

    Args:
        name: how the workload is called in tables and on the command line.
        groups: for each parameter group the shapes of its tensors.
        target: how many times faster than torch's fused AdamW onepass has to be, if promised.
    """

    name: str
    groups: Groups
    target: float | None = None

    @property
    def tensors(self) -> int:
        return sum(len(group) for group in self.groups)

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for group in self.groups for shape in group)


def one_tensor(elements: int) -> Groups:
    return (((elements,),),)


def one_group(tensors: int, elements: int) -> Groups:
    return (((elements,),) * tensors,)


def group_per_tensor(groups: int, elements: int) -> Groups:
    return (((elements,),),) * groups


STEP = (
    Workload("4 Ki", one_tensor(4 * KI), 2.5),
    Workload("64 Ki", one_tensor(64 * KI), 2.0),
    Workload("256 Ki", one_tensor(256 * KI), 1.25),
    Workload("16 Mi", one_tensor(16 * MI), 0.97),
    Workload("1000 x 64", one_group(1000, 64), 25.0),
    Workload("465 groups x 64", group_per_tensor(465, 64), 50.0),
    Workload("465 groups x 1024", group_per_tensor(465, 1024)),
)
