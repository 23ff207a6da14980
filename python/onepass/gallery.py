"""Six pictures of how the algorithms move: `python -m onepass.gallery [FOLDER]`.

Every path is a real run of the library's classes, and the same at every call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import onepass

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GOAL = (0.0, 0.0)
# Light and dark, solid and dashed, marked or not: two paths stay apart without colour too.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#e08020", "linestyle": "--", "marker": "o", "linewidth": 1.2},
    {"color": "#10305c", "linestyle": "-", "marker": "s", "linewidth": 1.8},
)


@dataclass(frozen=True)
class Walker:
    """An optimizer with its options, and what the legend calls it."""

    label: str
    cls: type[Any]
    options: dict[str, Any]


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


def _sgd(lr: float) -> Walker:
    return Walker(f"SGD, lr {lr:g}", onepass.SGD, {"lr": lr})


def _momentum(lr: float) -> Walker:
    return Walker(f"momentum 0.9, lr {lr:g}", onepass.SGD, {"lr": lr, "momentum": 0.9})


def _rmsprop(lr: float, alpha: float = 0.9) -> Walker:
    return Walker(f"RMSprop, lr {lr:g}", onepass.RMSprop, {"lr": lr, "alpha": alpha})


def _adam(lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> Walker:
    return Walker(f"Adam, lr {lr:g}", onepass.Adam, {"lr": lr, "betas": betas})


SCENES: dict[str, Scene] = {
    "momentum_vs_sgd": Scene(
        "In a valley SGD zigzags, momentum is smooth",
        (_sgd(0.092), Walker("Momentum, lr 0.03", onepass.Momentum, {"lr": 0.03, "momentum": 0.5})),
        steep=20.0, start=(-4.0, 1.0), steps=60,
    ),
    "momentum_badcase_scale": Scene(
        "In a long canyon momentum crawls along the flat axis",
        (_momentum(2e-4), _adam(0.1)),
        steep=1000.0, start=(-4.0, 1.0), steps=60,
        note="the steep axis forbids a larger rate for momentum",
    ),
    "rmsprop_vs_sgd": Scene(
        "In a canyon RMSprop goes straight to the goal",
        (_sgd(0.0018), _rmsprop(0.08)),
        steep=1000.0, start=(-4.0, 1.0), steps=60,
    ),
    "rmsprop_badcase_noise": Scene(
        "With noisy gradients RMSprop jitters at the goal",
        (_rmsprop(0.1, 0.99), _rmsprop(0.01, 0.99)),
        steep=1.0, start=(-1.0, 1.0), steps=200, noise=2.0,
        note="a smaller rate jitters less and arrives late",
    ),
    "adam_vs_scale": Scene(
        "Adam does not mind the canyon in which momentum crawls",
        (_momentum(0.001), _adam(0.15)),
        steep=1000.0, start=(-4.0, 1.0), steps=60,
    ),
    "adam_vs_noise": Scene(
        "With noisy gradients Adam's path is smooth where RMSprop's jitters",
        (_rmsprop(0.05, 0.99), _adam(0.05)),
        steep=1.0, start=(-1.0, 1.0), steps=200, noise=2.0,
    ),
}  # fmt: skip


def walk(scene: Scene, walker: Walker) -> torch.Tensor:
    """Returns the points of a run, the start first."""
    scale = torch.tensor([1.0, scene.steep], dtype=torch.float64)
    noise = torch.randn(
        scene.steps, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    point = torch.tensor(scene.start, dtype=torch.float64, requires_grad=True)
    optimizer = walker.cls([point], **walker.options)
    points = [point.detach().clone()]
    for number in range(scene.steps):
        point.grad = scale * point.detach() + scene.noise * noise[number]
        optimizer.step()
        points.append(point.detach().clone())
    return torch.stack(points)


def root_mean_square_step(points: torch.Tensor) -> float:
    """Returns the length of a step once the walk is under way."""
    late = points[len(points) // 2 :]
    return float(late.diff(dim=0).square().mean().sqrt())


def draw(scene: Scene, axes: Axes) -> None:
    """Draws contour lines, both paths, start and goal."""
    paths = [walk(scene, walker) for walker in scene.walkers]
    reach = [1.15 * abs(coordinate) for coordinate in scene.start]
    x, y = (torch.linspace(-r, r, 200, dtype=torch.float64) for r in (reach[0], 1.6 * reach[1]))
    height = (x[None] ** 2 + scene.steep * y[:, None] ** 2) / 2
    axes.contour(x, y, height.sqrt(), levels=12, colors="#c8c8c8", linewidths=0.7)
    for walker, points, style in zip(scene.walkers, paths, STYLES, strict=True):
        label = walker.label
        if scene.noise:
            label += f" (steps of {root_mean_square_step(points):.3g})"
        axes.plot(*points.T, label=label, markersize=2.5, **style)
    axes.plot(*scene.start, "k^", markersize=9, label="start")
    axes.plot(*GOAL, "k*", markersize=13, label="goal")
    axes.set(
        title=scene.title, xlabel=scene.note, xlim=(-reach[0], reach[0] / 2),
        ylim=(-1.6 * reach[1], 1.6 * reach[1]),
    )  # fmt: skip
    axes.legend(loc="lower right", fontsize="small")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the pictures and returns the exit code."""
    parser = argparse.ArgumentParser(prog="onepass.gallery", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("gallery"))
    folder: Path = parser.parse_args(arguments).folder
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        parser.exit(2, "onepass.gallery: no matplotlib: pip install 'onepass[demo]'\n")
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in SCENES.items():
        figure = Figure(figsize=(7, 5), dpi=110, layout="constrained")
        draw(scene, figure.subplots())
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        print(folder / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
