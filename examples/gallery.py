"""Draws how the algorithms move, each path a real run: python examples/gallery.py [FOLDER].

Needs `pip install .[demo]`. The pictures stand in docs/algorithms.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import Optimizer

import onepass

# Light and dark, solid and dashed, marked or not: two paths stay apart without colour too.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#e08020", "linestyle": "--", "marker": "o", "linewidth": 1.2},
    {"color": "#10305c", "linestyle": "-", "marker": "s", "linewidth": 1.8},
)

MakeOptimizer = Callable[[list[Tensor]], Optimizer]
Walker = tuple[str, MakeOptimizer]  # what the legend says, and what takes the steps


@dataclass(frozen=True)
class Scene:
    """A valley f = (x^2 + steep y^2) / 2, where the walk starts, and who walks."""

    title: str
    walkers: tuple[Walker, Walker]
    steep: float
    start: tuple[float, float]
    steps: int
    noise: float = 0.0  # standard deviation of what is added to each gradient
    note: str = ""


def walker(name: str, cls: Callable[..., Optimizer], lr: float, **options: Any) -> Walker:
    """Returns an optimizer's name with its rate, and the class with its options."""
    return f"{name}, lr {lr:g}", partial(cls, lr=lr, **options)


sgd = partial(walker, "SGD", onepass.SGD)
momentum = partial(walker, "momentum 0.9", onepass.SGD, momentum=0.9)
rmsprop = partial(walker, "RMSprop", onepass.RMSprop, alpha=0.99)
adam = partial(walker, "Adam", onepass.Adam, betas=(0.9, 0.99))

SCENES: dict[str, Scene] = {
    "momentum_vs_sgd": Scene(
        "In a valley SGD zigzags, momentum is smooth",
        (sgd(0.092), walker("Momentum", onepass.Momentum, 0.03, momentum=0.5)),
        steep=20.0, start=(-4.0, 1.0), steps=60,
    ),
    "momentum_badcase_scale": Scene(
        "In a long canyon momentum crawls along the flat axis",
        (momentum(2e-4), adam(0.1)),
        steep=1000.0, start=(-4.0, 1.0), steps=60,
        note="the steep axis forbids a larger rate for momentum",
    ),
    "rmsprop_vs_sgd": Scene(
        "In a canyon RMSprop goes straight to the goal",
        (sgd(0.0018), rmsprop(0.08, alpha=0.9)),
        steep=1000.0, start=(-4.0, 1.0), steps=60,
    ),
    "rmsprop_badcase_noise": Scene(
        "With noisy gradients RMSprop jitters at the goal",
        (rmsprop(0.1), rmsprop(0.01)),
        steep=1.0, start=(-1.0, 1.0), steps=200, noise=2.0,
        note="a smaller rate jitters less and arrives late",
    ),
    "adam_vs_scale": Scene(
        "Adam does not mind the canyon in which momentum crawls",
        (momentum(0.001), adam(0.15)),
        steep=1000.0, start=(-4.0, 1.0), steps=60,
    ),
    "adam_vs_noise": Scene(
        "With noisy gradients Adam's path is smooth where RMSprop's jitters",
        (rmsprop(0.05), adam(0.05)),
        steep=1.0, start=(-1.0, 1.0), steps=200, noise=2.0,
    ),
}  # fmt: skip


def walk(scene: Scene, make: MakeOptimizer) -> Tensor:
    """Returns the points of a run, the start first; the noise is the same at every call."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(scene.steps, 2, dtype=torch.float64, generator=generator) * scene.noise
    scale = torch.tensor([1.0, scene.steep], dtype=torch.float64)
    point = torch.tensor(scene.start, dtype=torch.float64, requires_grad=True)
    optimizer = make([point])
    points = [point.detach().clone()]
    for added in noise:
        point.grad = scale * point.detach() + added
        optimizer.step()
        points.append(point.detach().clone())
    return torch.stack(points)


def root_mean_square_step(points: Tensor) -> float:
    """Returns the length of a step once the walk is under way."""
    late = points[len(points) // 2 :]
    return float(late.diff(dim=0).square().mean().sqrt())


def draw(scene: Scene, axes: Axes) -> None:
    """Draws contour lines, both paths, start and goal."""
    reach = [1.15 * abs(coordinate) for coordinate in scene.start]
    x, y = (torch.linspace(-r, r, 200, dtype=torch.float64) for r in (reach[0], 1.6 * reach[1]))
    height = (x[None] ** 2 + scene.steep * y[:, None] ** 2) / 2
    axes.contour(x, y, height.sqrt(), levels=12, colors="#c8c8c8", linewidths=0.7)
    for (label, make), style in zip(scene.walkers, STYLES, strict=True):
        points = walk(scene, make)
        if scene.noise:
            label += f" (steps of {root_mean_square_step(points):.3g})"
        axes.plot(*points.T, label=label, markersize=2.5, **style)
    axes.plot(*scene.start, "k^", markersize=9, label="start")
    axes.plot(0, 0, "k*", markersize=13, label="goal")
    axes.set(
        title=scene.title, xlabel=scene.note, xlim=(-reach[0], reach[0] / 2),
        ylim=(-1.6 * reach[1], 1.6 * reach[1]),
    )  # fmt: skip
    axes.legend(loc="lower right", fontsize="small")


def main(folder: Annotated[Path, typer.Argument(file_okay=False)] = Path("gallery")) -> None:
    """Write the six pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in SCENES.items():
        figure = Figure(figsize=(7, 5), dpi=110, layout="constrained")
        draw(scene, figure.subplots())
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        print(folder / f"{name}.png")


if __name__ == "__main__":
    typer.run(main)
