"""C19: the step under torch.compile: compiled once or twice, the same bits, never stale."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim import lr_scheduler

from tests.cases import Case
from tests.oracle import all_states_on, state_names
from tests.support import (
    KIND_CASES,
    assert_same,
    betas_for,
    each_case,
    each_kind,
    make_params,
    numbers,
    params_of,
    randn,
    raw,
    set_grads,
)

pytestmark = [
    pytest.mark.thorough,
    # A scheduler counts the steps of the method that it wraps, not those of its compiled form.
    pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step"),
    # torch's own, where it loads its compiler.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
]
SHAPES = ((5, 7), (), (33,), (0,), (2, 3, 4))


def each_case_with(*options: str) -> Any:
    """Runs a test for the kinds of classes that have one of these options."""
    chosen = [c for c in KIND_CASES if {*options} & inspect.signature(c.ours).parameters.keys()]
    return pytest.mark.parametrize("case", chosen, ids=str)


Schedule = Callable[[Any], Any]
COSINE: Schedule = lambda o: lr_scheduler.CosineAnnealingLR(o, 20)  # noqa: E731
ONE_CYCLE: Schedule = lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=40)  # noqa: E731


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_and_eager(
    case: Case, options: dict[str, Any], backend: str = "aot_eager", dtype: Any = torch.float32
) -> tuple[Any, Callable[[], Any], CompileCounterWithBackend, Any]:
    """Returns an optimizer, its compiled step, the count of compilations, the optimizer's twin."""
    groups = [make_params(SHAPES, dtype) for _ in range(2)]
    own = {"maximize": True, "eps": 1e-3}
    own = {key: own[key] for key in own.keys() & inspect.signature(case.ours).parameters.keys()}
    counter = CompileCounterWithBackend(backend)
    made = [
        case.ours([{"params": params[:2]}, {"params": params[2:], **own}], **copy.deepcopy(options))
        for params in groups
    ]
    return made[0], torch.compile(made[0].step, fullgraph=True, backend=counter), counter, made[1]


def run_both(
    ours: Any, step: Callable[[], Any], eager: Any, schedule: Schedule, steps: int
) -> None:
    schedules = [schedule(optimizer) for optimizer in (ours, eager)]
    for number in range(steps):
        for optimizer, take in ((ours, step), (eager, eager.step)):
            set_grads(params_of(optimizer), number)
            take()
        for each in schedules:
            each.step()
        assert_same(numbers(ours), numbers(eager), f"step {number}")


# ---- C19: recompilation


@pytest.mark.compile
@each_kind
def test_c19_a_float_lr_under_a_scheduler_compiles_at_most_twice(case: Case) -> None:
    ours, step, counter, eager = compiled_and_eager(case, {"lr": 0.1})
    run_both(ours, step, eager, COSINE, 20)
    assert 1 <= counter.frame_count <= 2


@pytest.mark.compile
@each_kind
def test_c19_a_tensor_lr_under_a_scheduler_compiles_once(case: Case) -> None:
    ours, step, counter, eager = compiled_and_eager(case, {"lr": torch.tensor(0.1)})
    run_both(ours, step, eager, COSINE, 20)
    assert counter.frame_count == 1


@pytest.mark.compile
@each_case_with("betas", "momentum")
def test_c19_momentum_that_a_scheduler_cycles_compiles_at_most_twice(case: Case) -> None:
    ours, step, counter, eager = compiled_and_eager(case, {"lr": 0.1})
    run_both(ours, step, eager, ONE_CYCLE, 20)
    assert counter.frame_count <= 2


@pytest.mark.compile
@each_case_with("weight_decay")
def test_c19_weight_decay_that_changes_compiles_at_most_twice(case: Case) -> None:
    ours, step, counter, eager = compiled_and_eager(case, {"lr": 0.1, "weight_decay": 0.1})
    for number in range(20):
        for optimizer, take in ((ours, step), (eager, eager.step)):
            set_grads(params_of(optimizer), number)
            optimizer.param_groups[0]["weight_decay"] = 0.1 + 0.01 * number
            take()
        assert_same(numbers(ours), numbers(eager), f"step {number}")
    assert counter.frame_count <= 2


def no_schedule(optimizer: Any) -> Any:
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


@pytest.mark.compile
@each_case
def test_the_compiled_step_is_the_eager_step_bit_for_bit(case: Case) -> None:
    for options in (*case.settings[1:5], *case.extras):
        ours, step, counter, eager = compiled_and_eager(case, options)
        run_both(ours, step, eager, no_schedule, 3)
        # Once more where decouple_lr keeps the largest rate: a compiled step makes a tensor of it.
        assert counter.frame_count <= (3 if options.get("decouple_lr") else 2), options
        torch._dynamo.reset()


@pytest.mark.compile
@each_case_with("betas")
def test_tensor_betas_compile_once(case: Case) -> None:
    betas = betas_for(case, torch.tensor(0.8), torch.tensor(0.9))
    ours, step, counter, eager = compiled_and_eager(case, {"betas": betas})
    run_both(ours, step, eager, no_schedule, 3)
    assert counter.frame_count == 1


@pytest.mark.compile
@pytest.mark.parametrize("case", [case for case in KIND_CASES if str(case) == "AdamW"], ids=str)
@pytest.mark.parametrize(
    "dtype", (torch.float64, torch.bfloat16, torch.float16, torch.complex64), ids=str
)
def test_the_compiled_step_takes_every_dtype(case: Case, dtype: torch.dtype) -> None:
    ours, step, _, eager = compiled_and_eager(case, {"state_dtype": torch.float32}, dtype=dtype)
    run_both(ours, step, eager, no_schedule, 3)


@pytest.mark.slow
@pytest.mark.compile
@each_kind
def test_inductor_compiles_the_step(case: Case) -> None:
    ours, step, counter, eager = compiled_and_eager(case, {"lr": 0.1}, backend="inductor")
    run_both(ours, step, eager, COSINE, 6)
    assert counter.frame_count <= 2


@pytest.mark.compile
@each_kind
def test_the_compiled_step_is_never_stale(case: Case) -> None:
    """What is loaded, frozen or replaced between compiled steps is seen."""
    ours, step, _, eager = compiled_and_eager(case, {**all_states_on(case), "lr": 0.1})
    name = state_names(case, ours.param_groups[0])[0]
    saved = copy.deepcopy(ours.state_dict())

    def change(number: int, optimizer: Any) -> None:
        params = params_of(optimizer)
        if number == 1:
            params[0].grad = None
        elif number == 2:
            optimizer.load_state_dict(copy.deepcopy(saved))
        elif number == 3:
            params[2].data = randn(params[2].shape, torch.float32, 77)
        elif number == 4:
            optimizer.state[params[0]][name] = torch.ones_like(params[0])

    for number in range(6):
        for optimizer, take in ((ours, step), (eager, eager.step)):
            set_grads(params_of(optimizer), number)
            change(number, optimizer)
            take()
        assert_same(numbers(ours), numbers(eager), f"after change {number}")


@pytest.mark.compile
@each_kind
def test_a_compiled_training_step_learns_as_the_eager_one(case: Case) -> None:
    def train(compiled: bool) -> list[bytes]:
        (weight,) = make_params(((4, 4),))
        optimizer = case.ours([weight], lr=0.1)
        schedule = COSINE(optimizer)
        data = randn((8, 4), torch.float32, 5)

        def step() -> None:
            optimizer.zero_grad()
            (data @ weight).square().sum().backward()
            optimizer.step()

        take = torch.compile(step, backend="aot_eager") if compiled else step
        ends = []
        for _ in range(4):
            take()
            schedule.step()
            ends.append(raw(weight))
        return ends

    assert train(compiled=True) == train(compiled=False)


@each_kind
@pytest.mark.parametrize("strict", (True, False))
def test_an_exported_step_is_refused_in_words(case: Case, strict: bool) -> None:
    class Stepping(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))
            self.weight.grad = torch.ones(3)
            self.optimizer = case.ours([self.weight])

        def forward(self, x: Tensor) -> Tensor:
            self.optimizer.step()
            return x + 1

    model = Stepping()
    with pytest.raises(Exception, match=f"a step of {case} cannot be exported"):
        torch.export.export(model, (torch.ones(1),), strict=strict)
    assert torch.equal(model.weight, torch.ones(3))
