"""What is stepped: the table of workloads (shapes of the parameters, group by group)."""

import math
from dataclasses import dataclass

Shape = tuple[int, ...]
Groups = tuple[tuple[Shape, ...], ...]

WIDTHS_OF_RESNET_50 = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks and their width

KI, MI = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Workload:
    """A list of parameter groups.

    Args:
        name: how the workload is called in tables and on the command line.
        groups: for each parameter group the shapes of its tensors.
        target: how many times faster than torch's fused AdamW onepass has to be, if promised.
        dtype: of all tensors.
    """

    name: str
    groups: Groups
    target: float | None = None
    dtype: str = "float32"

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


def resnet_50() -> Groups:
    """The shapes of ResNet-50's parameters."""
    shapes: list[Shape] = []

    def convolution(inputs: int, outputs: int, size: int) -> None:
        shapes.extend([(outputs, inputs, size, size), (outputs,), (outputs,)])  # and batch norm

    convolution(3, 64, 7)
    inputs = 64
    for blocks, width in WIDTHS_OF_RESNET_50:
        for block in range(blocks):
            convolution(inputs, width, 1)
            convolution(width, width, 3)
            convolution(width, 4 * width, 1)
            if block == 0:
                convolution(inputs, 4 * width, 1)
            inputs = 4 * width
    return ((*shapes, (1000, inputs), (1000,)),)


def gpt_2_small(width: int = 768) -> Groups:
    """The shapes of GPT-2 small's parameters."""
    norm: tuple[Shape, ...] = ((width,), (width,))

    def linear(inputs: int, outputs: int) -> tuple[Shape, ...]:
        return ((inputs, outputs), (outputs,))

    attention = (*norm, *linear(width, 3 * width), *linear(width, width))
    perceptron = (*norm, *linear(width, 4 * width), *linear(4 * width, width))
    return (((50257, width), (1024, width), *(attention + perceptron) * 12, *norm),)


STEP = (
    Workload("4 Ki", one_tensor(4 * KI), 2.5),
    Workload("64 Ki", one_tensor(64 * KI), 2.0),
    Workload("256 Ki", one_tensor(256 * KI), 1.25),
    Workload("16 Mi", one_tensor(16 * MI), 0.97),
    Workload("1000 x 64", one_group(1000, 64), 25.0),
    Workload("465 groups x 64", group_per_tensor(465, 64), 50.0),
    Workload("465 groups x 1024", group_per_tensor(465, 1024)),
)

GPU = (
    *(
        Workload(f"{size} Mi {dtype}", one_tensor(size * MI), dtype=dtype)
        for dtype in ("float32", "bfloat16")
        for size in (1, 16, 64, 256)
    ),
    Workload("1000 x 64", one_group(1000, 64)),
    Workload("465 groups x 64", group_per_tensor(465, 64)),
    Workload("465 groups x 1024", group_per_tensor(465, 1024)),
    Workload("ResNet-50", resnet_50()),
    Workload("GPT-2 small", gpt_2_small()),
)
