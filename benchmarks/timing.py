"""Timing machinery: interleaved rounds, cold steps, summaries of ratios.

Note [Interleaved rounds] A machine changes speed from one second to the next (other users, clock,
temperature), so absolute times of two programs measured one after the other say little. Here all
contestants run in one process, in short turns of some milliseconds, in an order that rotates and
reverses from round to round; what is compared are the two times of the same round, and what is
reported is the median of those ratios with its quartiles.
"""

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch

Step = Callable[[], object]
Times = dict[str, list[float]]  # contestant -> seconds per step, one number per round
Timer = Callable[[Step, int], float]  # seconds that so many steps take together


@dataclass(frozen=True)
class Settings:
    """How long to measure and what cold means.

    Args:
        rounds: rounds of each kind; a result to publish needs at least 9.
        least_seconds: least time per contestant and round.
        cache_bytes: size of the last-level cache.
    """

    rounds: int = 21
    least_seconds: float = 0.008
    cache_bytes: int = 32 << 20


@dataclass(frozen=True)
class Summary:
    """Median and quartiles of some numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Summary":
        if len(numbers) < 2:
            return cls(*(list(numbers) * 3))
        low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return cls(median, low, high)


def speedups(times: Times, baseline: str) -> dict[str, Summary]:
    """How many times faster than the baseline each contestant was, paired round by round."""
    return {
        name: Summary.of([b / own for b, own in zip(times[baseline], column, strict=True)])
        for name, column in times.items()
    }


def turns(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """The order of play of each round: rotated by one each time, every second one reversed."""
    for turn in range(rounds):
        first = turn % max(1, len(names))
        order = [*names[first:], *names[:first]]
        yield order[::-1] if turn % 2 else order


def time_batch(step: Step, batch: int) -> float:
    """Seconds that `batch` steps take together."""
    start = perf_counter()
    for _ in range(batch):
        step()
    return perf_counter() - start


def warm_rounds(steps: Mapping[str, Step], settings: Settings, timer: Timer = time_batch) -> Times:
    """Seconds per step with warm caches; see Note [Interleaved rounds]."""
    least = settings.least_seconds
    batches = {name: batch_size(step, least / 4, timer) for name, step in steps.items()}
    times: Times = {name: [] for name in steps}
    with no_garbage_collection():
        for order in turns(list(steps), settings.rounds):
            for name in order:
                times[name].append(time_turn(steps[name], batches[name], least, timer))
    return times


def cold_rounds(steps: Mapping[str, Step], settings: Settings) -> Times:
    """Seconds of a single step right after the caches were filled with something else."""
    return single_rounds(steps, settings.rounds, CacheFlush(settings.cache_bytes))


def single_rounds(steps: Mapping[str, Step], rounds: int, prepare: Step) -> Times:
    """Seconds of a single step right after `prepare`."""
    times: Times = {name: [] for name in steps}
    with no_garbage_collection():
        for order in turns(list(steps), rounds):
            for name in order:
                prepare()
                times[name].append(time_batch(steps[name], 1))
    return times


def time_turn(step: Step, batch: int, least_seconds: float, timer: Timer = time_batch) -> float:
    """Seconds per step: one untimed step, then batches until the least time is reached."""
    step()
    count, seconds = 0, 0.0
    while seconds < least_seconds:
        seconds += timer(step, batch)
        count += batch
    return seconds / count


def batch_size(step: Step, seconds: float, timer: Timer = time_batch) -> int:
    """Steps per look at the clock: the power of two that takes about `seconds`."""
    step()
    batch = 1
    while batch < 1 << 20 and timer(step, batch) < seconds / 2:
        batch *= 2
    return batch


class CacheFlush:
    """Rewrites a buffer twice as large as the last-level cache, with all threads."""

    def __init__(self, cache_bytes: int) -> None:
        self.buffer = torch.zeros(max(1, 2 * cache_bytes // 4))

    def __call__(self) -> None:
        self.buffer.add_(1)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now and not while measuring, as timeit does."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
