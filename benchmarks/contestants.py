"""Who steps: the table of optimizers, and how a workload becomes a step to time."""

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Step, time_batch
from benchmarks.workloads import Groups

ParamGroups = list[dict[str, Any]]


class Absent(Exception):
    """A contestant cannot take part; the text says why."""


@dataclass(frozen=True)
class Contestant:
    """One implementation, found in `module` under the name of the algorithm.

    Args:
        name: how it is called in tables.
        module: the module that holds the class; a contestant without it is skipped.
        options: keyword arguments of the class beside the hyper-parameters.
        compiled: whether torch.compile makes its step.
        classes: what it calls the algorithms that it has under other names.
    """

    name: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    compiled: bool = False
    classes: dict[str, str] = field(default_factory=dict)

    def find(self, algorithm: str) -> Callable[..., torch.optim.Optimizer]:
        """The class; raises Absent if it cannot be imported or lacks an option."""
        name = self.classes.get(algorithm, algorithm)
        found = find_attribute(self.module, name)
        for option in self.options:
            if option not in inspect.signature(found).parameters:
                raise Absent(f"{self.module}.{name} has no option '{option}'")
        return found

    def start(self, optimizer: torch.optim.Optimizer) -> tuple[Step, float | None]:
        """The step after STARTING of them, and the seconds that compiling it took."""
        if not self.compiled:
            time_batch(optimizer.step, STARTING)
            return optimizer.step, None
        step = torch.compile(optimizer.step)
        try:
            with fresh_compiler():
                return step, time_batch(step, STARTING)
        except Exception as error:  # of whatever compiler torch calls
            reason = (str(error).splitlines() or [""])[0]
            raise Absent(f"torch.compile: {type(error).__name__}: {reason}") from error


BASELINE = "torch fused"
OURS = "onepass"
FOR_LOOP = "torch for-loop"  # torch's own choice on the CPU
COMPILED = "torch.compile"
SWEEP = "same bytes, no arithmetic"

OPTIMIZERS = (
    Contestant(OURS, "onepass"),
    Contestant(BASELINE, "torch.optim", {"fused": True}),
    Contestant("torch foreach", "torch.optim", {"foreach": True}),
    Contestant(FOR_LOOP, "torch.optim", {"foreach": False}),
)

COMPILING = Contestant(COMPILED, "torch.optim", compiled=True)

# Settings that every contestant gets; elsewhere the defaults, which are torch's.
HYPERS: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3, "weight_decay": 1e-2},
    "SGD": {"momentum": 0.9},
}
STARTING = 2  # the first step makes the state that the second may be compiled for
COMPARED = 8  # steps before all are compared: RAdam's are rectified from the sixth on


@dataclass
class Lineup:
    """Who steps a workload and who does not, why, and how many states a parameter has."""

    steps: dict[str, Step] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    compile_seconds: dict[str, float] = field(default_factory=dict)
    states: int = 0

    @property
    def bytes_held(self) -> int:
        """Bytes per float32 element: parameter, gradient, states."""
        return 4 * (2 + self.states)

    @property
    def bytes_moved(self) -> int:
        """Bytes that a step must move per float32 element: of the gradient once, else twice."""
        return 4 * (3 + 2 * self.states)

    def add_sweep(self, groups: Groups) -> None:
        """Let a sweep over the bytes of a step that computes nothing take part."""
        try:
            self.steps[SWEEP] = make_sweep(groups, self.states)
        except Absent as reason:
            self.absent[SWEEP] = str(reason)


@contextmanager
def fresh_compiler() -> Iterator[None]:
    """Compile anew, not from an earlier run's files, so that the time means something."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one says that nothing is kept
        with torch.compiler.config.patch(force_disable_caches=True):
            yield


def find_attribute(module: str, name: str) -> Any:
    """`module.name`, or Absent."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise Absent(f"{module}.{name} not found ({type(error).__name__})") from error


def make_groups(
    groups: Groups, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> ParamGroups:
    """New parameters with fixed gradients; the same numbers at every call."""
    device = device or torch.device("cpu")
    generator = torch.Generator(device).manual_seed(0)

    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def parameter(shape: tuple[int, ...]) -> torch.nn.Parameter:
        made = torch.nn.Parameter(random(shape))
        made.grad = random(shape)
        return made

    return [{"params": [parameter(shape) for shape in group]} for group in groups]


def line_up(contestants: Iterable[Contestant], algorithm: str, groups: Groups) -> Lineup:
    """The bound `step` of each contestant on its own parameters, after they were compared."""
    made = Lineup()
    reference: ParamGroups = []
    for contestant in contestants:
        params = make_groups(groups)
        try:
            cls = contestant.find(algorithm)
            optimizer = cls(params, **HYPERS.get(algorithm, {}), **contestant.options)
            step, seconds = contestant.start(optimizer)
        except Absent as reason:
            made.absent[contestant.name] = str(reason)
            continue
        time_batch(step, COMPARED - STARTING)
        check_same(contestant.name, params, reference or params)
        reference = reference or params
        made.steps[contestant.name] = step
        made.states = count_states(optimizer)
        if seconds is not None:
            made.compile_seconds[contestant.name] = seconds
    return made


def count_states(optimizer: torch.optim.Optimizer) -> int:
    """The tensors of a parameter's shape that an optimizer keeps for a parameter."""
    param = optimizer.param_groups[0]["params"][0]
    return sum(
        isinstance(value, Tensor) and value.shape == param.shape
        for value in optimizer.state[param].values()
    )


def check_same(name: str, params: ParamGroups, reference: ParamGroups) -> None:
    """All contestants must compute the same: a step that does nothing is not a fast one."""
    for own, other in zip(params, reference, strict=True):
        for mine, theirs in zip(own["params"], other["params"], strict=True):
            torch.testing.assert_close(mine, theirs, msg=lambda text: f"{name}: {text}")


def make_sweep(groups: Groups, states: int) -> Step:
    """A sweep over a parameter, a gradient and states that computes nothing; raises Absent."""
    sweep = find_attribute("onepass._C", "sweep_without_arithmetic")
    shapes = [shape for group in groups for shape in group]
    rows = [[torch.rand(shape) for _ in range(2 + states)] for shape in shapes]

    def run() -> None:
        for param, grad, *rest in rows:
            sweep(param, grad, rest)

    return run
