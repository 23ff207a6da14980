"""One step of an optimizer on this machine and one model's shapes, beside torch's on the CPU.

A machine changes speed from one second to the next. So all run in one process, in short turns
whose order changes, and what is compared are times of the same round.
"""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ._native import C
from .convert import class_named
from .host import cpu, free_bytes
from .model_shapes import Shapes, shapes_of
from .options import torchs_class
from .progress import progress
from .state import state_bytes

_SECONDS = 10.0  # in which the rounds have to fit, where their number is not asked for
_LEAST_TURN = 0.004  # of which a clock tells more than its own noise
_LEAST_ROUNDS, _MOST_ROUNDS = 2, 101


def bench(shape: str, optimizer: str, dtype: torch.dtype, rounds: int | None) -> str:
    """Returns a table of what one step takes; `rounds` of None fit into ten seconds or so.

    Raises:
        ValueError: there is no such shape or optimizer, or not enough memory for it.
    """
    cls, shapes = class_named(optimizer), shapes_of(shape)
    _check_memory(cls, shapes, dtype)
    generator = torch.Generator().manual_seed(0)  # and not the user's
    params = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]
    for param in params:
        param.grad = (torch.randn(param.shape, generator=generator) / 100).to(dtype)
    times = _measured({name: made.step for name, made in _lineup(cls, params).items()}, rounds)
    kind = str(dtype).removeprefix("torch.")
    elements = sum(map(math.prod, shapes))
    head = f"{cls.__name__} on {shape}: {len(shapes)} tensors, {elements:,} numbers of {kind}"
    versions = f"torch {torch.__version__}, onepass {C.build_info()['version']}"
    return "\n".join((head, f"{cpu()}; {versions}", "", *_rows(times, cls)))


def _lineup(cls: Any, params: list[Tensor]) -> dict[str, Any]:
    """Returns the optimizers to compare; all step the same parameters, with states of their own."""
    theirs: Any = torchs_class(cls)
    lineup = {"onepass": cls(params)}
    if theirs is not None:
        known = inspect.signature(theirs).parameters
        ways = [way for way in ("fused", "foreach") if way in known]
        lineup |= {f"torch {way}": theirs(params, **{way: True}) for way in ways}
        lineup["torch default"] = theirs(params)
    return lineup


def _check_memory(cls: Any, shapes: Shapes, dtype: torch.dtype) -> None:
    on_meta = [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
    weights = sum(one.nbytes for one in on_meta)
    needed = 6 * weights + 4 * state_bytes(on_meta, cls)  # torch's foreach takes temporaries
    free = free_bytes()
    if free is not None and needed > free:
        raise ValueError(
            f"--shape needs {needed / 1e9:.1f} GB for all that are compared, and "
            f"{free / 1e9:.1f} GB are free; take a smaller one"
        )


def _measured(steps: dict[str, Callable[[], Any]], rounds: int | None) -> dict[str, list[float]]:
    """Returns the seconds that a step takes, by contestant, one number for each round."""
    counts = {name: _steps_in_a_turn(step) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in _rounds(rounds):
        first = turn % len(steps)
        order = [*list(steps)[first:], *list(steps)[:first]]
        for name in reversed(order) if turn % 2 else order:
            if counts[name] > 1:  # so short that it is not to begin with another's caches
                steps[name]()
            times[name].append(_seconds(steps[name], counts[name]))
    return times


def _steps_in_a_turn(step: Callable[[], Any]) -> int:
    if _seconds(step, 1) > 5 * _LEAST_TURN:  # the first, which makes the state
        return 1
    return max(1, round(_LEAST_TURN / _seconds(step, 1)))


def _seconds(step: Callable[[], Any], count: int) -> float:
    start = perf_counter()
    for _ in range(count):
        step()
    return (perf_counter() - start) / count


def _rounds(wanted: int | None) -> Iterator[int]:
    """Yields the numbers of the rounds: as many as are wanted, or as fit into the time."""
    start = perf_counter()
    with progress() as show:
        for turn in range(wanted or _MOST_ROUNDS):
            share = turn / (wanted or _MOST_ROUNDS)
            if wanted is None:
                share = max(share, (perf_counter() - start) / _SECONDS)
                if share > 1 and turn >= _LEAST_ROUNDS:
                    return
            show(share)
            yield turn


def _rows(times: dict[str, list[float]], cls: Any) -> Iterator[str]:
    yield f"{'one step':<14}{'median':>8}   {'middle half':<20}   beside onepass"
    for name, own in times.items():
        ratios = [one / ours for one, ours in zip(own, times["onepass"], strict=True)]
        low, median, high = statistics.quantiles(own, n=4, method="inclusive")
        spread = f"{_time(low)} to {_time(high)}"
        yield f"{name:<14}{_time(median):>8}   {spread:<20}   {statistics.median(ratios):.2f} times"
    if len(times) == 1:
        yield f"torch.optim has no {cls.__name__}"
    yield f"{len(times['onepass'])} rounds in turns; a ratio is the median of those of the rounds"


def _time(seconds: float) -> str:
    """Returns a time with three digits."""
    size, unit = (1e6, "us") if seconds < 1e-3 else (1e3, "ms") if seconds < 1 else (1, "s")
    value = seconds * size
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
