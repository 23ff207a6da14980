"""Who steps: the table of optimizers, and how a workload becomes a step to time."""

import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.agreement import ParamGroups, check_same, check_same_move
from benchmarks.bare_sweep import sweep_without_arithmetic
from benchmarks.models import Groups
from benchmarks.timing import Step, time_batch
from benchmarks.workloads import Workload, one_tensor


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
        classes: what it calls the algorithms that it has under other names, from its module on.
        settings: further keyword arguments of single algorithms.
        most_tensors: with more it does not take part: it would take minutes to start.
    """

    name: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    compiled: bool = False
    classes: dict[str, str] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    most_tensors: int | None = None

    def make(self, algorithm: str, params: ParamGroups) -> torch.optim.Optimizer:
        """The optimizer with the settings that all get; raises Absent."""
        cls = self.find(algorithm)
        own = {**self.options, **self.settings.get(algorithm, {})}
        return cls(params, **HYPERS.get(algorithm, {}), **own)

    def find(self, algorithm: str) -> Callable[..., torch.optim.Optimizer]:
        """The class; raises Absent if it cannot be imported or lacks an option."""
        name = self.classes.get(algorithm, algorithm)
        found = find_attribute(self.module, name)
        if found.__module__.startswith("torch.") and not self.module.startswith("torch."):
            raise Absent(f"{self.module}.{name} is torch's own class")
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
FOREACH = "torch foreach"
FOR_LOOP = "torch for-loop"  # torch's own choice on the CPU
COMPILED = "torch.compile"
SWEEP = "same bytes, no arithmetic"
FASTEST = "fastest peer"  # whoever of the others that turns out to be

# The first who takes part is who the others are compared with.
OPTIMIZERS = (
    Contestant(OURS, "onepass"),
    Contestant(BASELINE, "torch.optim", {"fused": True}),
    Contestant(FOREACH, "torch.optim", {"foreach": True}),
    Contestant(FOR_LOOP, "torch.optim", {"foreach": False}),
)

COMPILING = Contestant(COMPILED, "torch.optim", compiled=True, most_tensors=20)

# Of other projects; benchmarks/requirements-peers.txt has their versions.
PEERS = (
    Contestant(
        "DeepSpeed",
        "deepspeed.ops",
        {"fp32_optimizer_states": False},  # states of the parameter's dtype, as everyone's
        classes={
            "Adam": "adam.DeepSpeedCPUAdam",
            "AdamW": "adam.DeepSpeedCPUAdam",
            "Adagrad": "adagrad.DeepSpeedCPUAdagrad",
            "Lion": "lion.DeepSpeedCPULion",
        },
        settings={"Adam": {"adamw_mode": False}, "AdamW": {"adamw_mode": True}},
    ),
    Contestant("optimi", "optimi", {"kahan_sum": False}),  # which nobody else here has
    Contestant("torchao", "torchao.optim", classes={"AdamW": "_AdamW"}, most_tensors=200),
    Contestant("bitsandbytes", "bitsandbytes.optim"),
    Contestant("pytorch-optimizer", "pytorch_optimizer", classes={"LAMB": "Lamb"}),
)

# Settings that every contestant gets; elsewhere the defaults, which are torch's.
ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
HYPERS: dict[str, dict[str, Any]] = {
    "Adam": ADAM,
    "AdamW": {**ADAM, "weight_decay": 1e-2},
    "Adan": {"lr": 1e-3, "betas": (0.98, 0.92, 0.99), "eps": 1e-8, "weight_decay": 0.0},
    "LAMB": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 1e-2},
    "LARS": {"lr": 1.0},
    "Lion": {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0},
    "NovoGrad": {"lr": 1e-2, "betas": (0.95, 0.98), "eps": 1e-8, "weight_decay": 0.0},
    "RAdam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    "SGD": {"lr": 1e-3, "momentum": 0.9},
}
STARTING = 2  # the first step makes the state that the second may be compiled for
MOST_TENSORS_OF_A_SHAPE = 10  # one contestant's three, three that come and go, the sweep's four
SMALL = Workload("the same?", one_tensor(1024))
COMPARED = 8  # steps before all are compared: RAdam's are rectified from the sixth on
# Where torch computes something else.
DEFECTS = {(BASELINE, "SGD", "bfloat16"): "moves no parameters of 16 bits (pytorch#191763)"}
if torch.__version__ >= "2.14":
    DEFECTS.clear()


@dataclass
class Lineup:
    """Who steps a workload and who does not, why, and what a parameter has.

    Args:
        steps: the step of each who takes part.
        absent: why the others do not.
        compile_seconds: how long those took to start whose step is compiled.
        states: tensors of a parameter's shape that an optimizer keeps.
        itemsize: bytes of each of their elements.
    """

    steps: dict[str, Step] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    compile_seconds: dict[str, float] = field(default_factory=dict)
    states: int = 0
    itemsize: int = 4

    @property
    def bytes_held(self) -> int:
        """Bytes per element: parameter, gradient, states."""
        return self.itemsize * (2 + self.states)

    @property
    def bytes_moved(self) -> int:
        """Bytes that a step must move per element: of the gradient once, else twice."""
        return self.itemsize * (3 + 2 * self.states)

    def add_sweep(self, work: Workload) -> None:
        """Let a sweep over the bytes of a step that computes nothing take part."""
        try:
            self.steps[SWEEP] = make_sweep(work, self.states)
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
    """`module.name`, where name may have dots, or Absent."""
    *parts, last = f"{module}.{name}".split(".")
    try:
        return getattr(importlib.import_module(".".join(parts)), last)
    except (ImportError, AttributeError) as error:
        raise Absent(f"{module}.{name} not found ({type(error).__name__})") from error


def make_groups(
    groups: Groups,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    grads: ParamGroups | None = None,
) -> ParamGroups:
    """New parameters with fixed gradients, or those of others; the same numbers at every call."""
    device = device or torch.device("cpu")
    generator = torch.Generator(device).manual_seed(0)

    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    made = [{"params": [torch.nn.Parameter(random(shape)) for shape in group]} for group in groups]
    for number, group in enumerate(made):
        for index, param in enumerate(group["params"]):
            param.grad = random(param.shape) if not grads else grads[number]["params"][index].grad
    return made


def line_up(contestants: Iterable[Contestant], algorithm: str, work: Workload) -> Lineup:
    """The bound `step` of each contestant on its own parameters, after they were compared.

    They share the gradients. Who computes something else in float32 does so in 16 bits too, where
    rounding would hide it.
    """
    made = Lineup(itemsize=work.torch_dtype.itemsize)
    reference: ParamGroups = []
    if made.itemsize < 4:
        contestants = tuple(contestants)
        made.absent |= line_up(contestants, algorithm, SMALL).absent
    for contestant in contestants:
        if contestant.name in made.absent:
            continue
        try:
            check_allowed(contestant, algorithm, work)
            contestant.find(algorithm)
            params = make_groups(work.groups, dtype=work.torch_dtype, grads=reference)
            optimizer = contestant.make(algorithm, params)
            step, seconds = contestant.start(optimizer)
            time_batch(step, COMPARED - STARTING)
            check_agrees(contestant.name, params, reference or params, work)
        except Exception as error:
            made.absent[contestant.name] = reason_of(contestant, error)
            continue
        reference = reference or params
        made.steps[contestant.name] = step
        made.states = made.states or count_states(optimizer)
        if seconds is not None:
            made.compile_seconds[contestant.name] = seconds
    return made


def check_allowed(contestant: Contestant, algorithm: str, work: Workload) -> None:
    """Raise Absent where a contestant is known to err, or would take too long or much memory."""
    if reason := DEFECTS.get((contestant.name, algorithm, work.dtype)):
        raise Absent(reason)
    if contestant.most_tensors is not None and work.tensors > contestant.most_tensors:
        raise Absent(f"takes too long to start with more than {contestant.most_tensors} tensors")
    needed = MOST_TENSORS_OF_A_SHAPE * work.elements * work.torch_dtype.itemsize
    free = machine.available_bytes()
    if free is not None and needed > free:
        raise Absent(f"needs {needed / (1 << 30):.1f} GiB of memory, more than there is left")


def reason_of(contestant: Contestant, error: Exception) -> str:
    """Why a contestant is absent; an error of ours or of torch's is one of the benchmark's."""
    if isinstance(error, Absent):
        return str(error)
    if contestant.module in ("onepass", "torch.optim"):
        raise error
    if isinstance(error, AssertionError):
        return "computes something else"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def check_agrees(name: str, params: ParamGroups, reference: ParamGroups, work: Workload) -> None:
    """Raise AssertionError where a contestant computes something else than the first."""
    if work.torch_dtype.itemsize >= 4:
        return check_same(name, params, reference)
    start = make_groups(work.groups, dtype=work.torch_dtype, grads=params)
    check_same_move(name, params, reference, start)


def count_states(optimizer: torch.optim.Optimizer) -> int:
    """The tensors of a parameter's shape that an optimizer keeps for a parameter."""
    param = optimizer.param_groups[0]["params"][0]
    return sum(
        isinstance(value, Tensor) and value.shape == param.shape
        for value in optimizer.state[param].values()
    )


def make_sweep(work: Workload, states: int) -> Step:
    """A sweep over the bytes of parameters, gradients and states."""
    itemsize = work.torch_dtype.itemsize
    sizes = [math.prod(shape) * itemsize // 4 for group in work.groups for shape in group]
    rows = [[torch.rand(size) for _ in range(2 + states)] for size in sizes]

    def run() -> None:
        for param, grad, *rest in rows:
            sweep_without_arithmetic(param, grad, rest)

    return run
