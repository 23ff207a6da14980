"""An average that moves with an optimizer's steps has the bits of one updated after them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils.flop_counter import FlopCounterMode

import onepass
from onepass.ema import EMA
from tests.averaged import Tied
from tests.cases import Case
from tests.layouts import same_bits
from tests.support import each_case, randn, raw

pytestmark = pytest.mark.sanitize


class Model(torch.nn.Module):
    """Matrices, vectors, an empty one, another layout, buffers; large enough to be cut."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        shapes = ((130, 260), (260,), (), (0, 3), (33, 7), (4, 5, 6, 7))
        self.weights = torch.nn.ParameterList(
            torch.nn.Parameter(randn(shape, dtype, seed)) for seed, shape in enumerate(shapes)
        )
        self.weights[4].data = self.weights[4].data.t().contiguous().t()
        self.weights[5].data = self.weights[5].data.to(memory_format=torch.channels_last)
        self.register_buffer("scale", randn((5,), dtype, 9))
        self.register_buffer("count", torch.tensor(0))

    def give_gradients(self, seed: int) -> None:
        for k, weight in enumerate(self.weights):
            weight.grad = randn(weight.shape, weight.dtype, 100 * seed + k)
        self.count += 1


def trained(
    follows: bool,
    cls: Any = onepass.AdamW,
    options: dict[str, Any] | None = None,
    change: Callable[[Model], object] = lambda model: None,
    dtype: torch.dtype = torch.float32,
    ema: dict[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Returns the weights and their averages after five steps, in groups of another order."""
    model = Model(dtype)
    change(model)
    weights = [weight for weight in model.weights if weight.requires_grad]
    groups = [{"params": weights[1::2]}, {"params": weights[::2]}]
    optimizer = cls(groups, **(options or {}))
    options_of_ema = {**(ema or {}), **({"optimizer": optimizer} if follows else {})}
    average = EMA(model, 0.9, use_buffers=True, **options_of_ema)
    for seed in range(5):
        model.give_gradients(seed)
        optimizer.step()
        if not follows:
            average.update()
    assert average.n_averaged == 5
    return {**model.state_dict(), **{f"average of {k}": v for k, v in average.averages.items()}}


def assert_equal(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    assert not [name for name in want if not same_bits(got[name], want[name])]


@each_case
def test_every_class_moves_it_with_the_bits_of_update(case: Case) -> None:
    options = case.settings[1]
    assert_equal(trained(True, case.ours, options), trained(False, case.ours, options))


@pytest.mark.parametrize(
    "ema", [{"bias_correction": True}, {"dtype": torch.bfloat16}, {"dtype": torch.float64}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_with_every_option_of_the_average(ema: dict[str, Any], dtype: torch.dtype) -> None:
    assert_equal(trained(True, dtype=dtype, ema=ema), trained(False, dtype=dtype, ema=ema))


@pytest.mark.parametrize(
    "options",
    [
        {"max_grad_norm": 0.5},
        {"state_dtype": torch.int8},
        {"stochastic_rounding": True},
        {"amsgrad": True, "maximize": True},
    ],
    ids=str,
)
def test_with_options_of_the_optimizer(options: dict[str, Any]) -> None:
    dtype = torch.bfloat16 if "stochastic_rounding" in options else torch.float32
    got, want = (trained(one, options=options, dtype=dtype) for one in (True, False))
    assert_equal(got, want)


def tie(model: Model) -> None:
    """Lets two weights share memory, so that all are stepped in order."""
    model.weights[1].data = model.weights[0].data[1]


def freeze(model: Model) -> None:
    model.weights[0].requires_grad_(False)


def make_complex(model: Model) -> None:
    model.weights[4].data = torch.complex(model.weights[4].data, 2 * model.weights[4].data)


@pytest.mark.parametrize("change", [tie, freeze, make_complex])
def test_with_weights_that_share_memory_stay_or_are_pairs(change: Callable[[Model], None]) -> None:
    assert_equal(trained(True, change=change), trained(False, change=change))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_bits_do_not_depend_on_the_threads(threads: int) -> None:
    before = torch.get_num_threads()
    want = trained(True)
    try:
        torch.set_num_threads(threads)
        assert_equal(trained(True), want)
    finally:
        torch.set_num_threads(before)


def test_large_tensors_are_swept_with_other_threads_running() -> None:
    weight = torch.nn.Parameter(randn((1200, 1000), torch.float32, 1))
    optimizer = onepass.SGD([weight], lr=0.1)
    average = EMA([weight], 0.5, optimizer=optimizer)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    first = weight.detach().clone()
    optimizer.step()
    assert same_bits(average.averages["0"], torch.lerp(first, weight.detach(), 0.5))


def test_several_averages_follow_one_optimizer_and_each_may_leave() -> None:
    model = Model()
    optimizer = onepass.AdamW(model.parameters(), lr=0.1)
    averages = [EMA(model, beta, optimizer=optimizer) for beta in (0.5, 0.9)]
    alone = [EMA(model, beta) for beta in (0.5, 0.9)]
    for seed in range(4):
        model.give_gradients(seed)
        optimizer.step()
        for average in alone[: 1 if seed > 2 else 2]:
            average.update()
        if seed == 2:
            averages[1].unfollow()
            averages[1].unfollow()
    assert [average.n_averaged for average in averages] == [4, 3]
    for got, want in zip(averages, alone, strict=True):
        assert_equal(got.averages, want.averages)


def test_only_every_third_step_where_that_is_asked_for() -> None:
    model = Model()
    optimizer = onepass.SGD(model.parameters(), lr=0.1)
    average, alone = EMA(model, 0.5, optimizer=optimizer, update_every=3), EMA(model, 0.5)
    for seed in range(7):
        model.give_gradients(seed)
        optimizer.step()
        if seed % 3 == 2:
            alone.update()
    assert average.n_averaged == 2
    assert_equal(average.averages, alone.averages)


@pytest.fixture
def pair() -> Iterator[tuple[Model, Any, EMA]]:
    model = Model()
    optimizer = onepass.AdamW(model.parameters(), lr=0.1, skip_nonfinite=True)
    average = EMA(model, 0.5, optimizer=optimizer)
    model.give_gradients(0)
    optimizer.step()
    yield model, optimizer, average


def bytes_of(model: Model, optimizer: Any, average: EMA) -> list[bytes]:
    states = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [*model.parameters(), *states, *average.averages.values()]
    return [raw(tensor) for tensor in tensors] + [bytes(str(average.n_averaged), "ascii")]


def test_a_step_that_is_skipped_moves_nothing(pair: tuple[Model, Any, EMA]) -> None:
    model, optimizer, _ = pair
    before = bytes_of(*pair)
    model.weights[0].grad[0, 0] = torch.inf
    optimizer.step()
    assert bytes_of(*pair) == before
    model.give_gradients(1)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert bytes_of(*pair) == before


def test_an_average_that_does_not_fit_refuses_the_step_before_it_changes_a_byte(
    pair: tuple[Model, Any, EMA],
) -> None:
    model, optimizer, average = pair
    model.give_gradients(1)
    fitting = average.averages["weights.0"]
    for wrong in (torch.zeros(3), fitting.to(torch.int32), fitting.to_sparse()):
        average.averages["weights.0"] = wrong
        before = bytes_of(*pair) if wrong.layout == torch.strided else None
        with pytest.raises((RuntimeError, ValueError, TypeError), match=r"'weights\.0'"):
            optimizer.step()
        assert before is None or bytes_of(*pair) == before
    average.averages["weights.0"] = fitting
    average.beta = 1.0
    before = bytes_of(*pair)
    with pytest.raises(ValueError, match="Invalid beta"):
        optimizer.step()
    assert bytes_of(*pair) == before


def test_a_step_while_the_averages_are_swapped_in_is_refused(pair: tuple[Model, Any, EMA]) -> None:
    model, optimizer, average = pair
    model.give_gradients(1)
    before = bytes_of(*pair)
    with average.swapped(), pytest.raises(RuntimeError, match="swapped in"):
        optimizer.step()
    assert bytes_of(*pair) == before


def test_what_cannot_move_it_says_so() -> None:
    model = Model()
    optimizer = onepass.AdamW(model.parameters())
    with pytest.raises(TypeError, match=r"one of onepass, got AdamW; call update\(\)"):
        EMA(model, optimizer=torch.optim.AdamW(model.parameters()))
    with pytest.raises(ValueError, match="steps none of these weights"):
        EMA(Model(), optimizer=optimizer)
    with pytest.raises(ValueError, match="differentiable"):
        EMA(model, optimizer=onepass.AdamW(model.parameters(), differentiable=True))
    for wrong in (0, 1.5, -1):
        with pytest.raises(ValueError, match="Invalid update_every"):
            EMA(model, optimizer=optimizer, update_every=wrong)
    with pytest.raises(ValueError, match="follow an optimizer"):
        EMA(model, update_every=2)
    model.give_gradients(0)
    optimizer.step()
    assert not optimizer.__dict__.get("_averages")


def test_steps_of_one_parameter_and_under_a_mode_are_refused(pair: tuple[Model, Any, EMA]) -> None:
    model, optimizer, _ = pair
    model.give_gradients(1)
    before = bytes_of(*pair)
    with pytest.raises(RuntimeError, match="while averages follow it"):
        optimizer.step_one(model.weights[0])
    with pytest.raises(RuntimeError, match="moves averages"), FlopCounterMode(display=False):
        optimizer.step()
    assert bytes_of(*pair) == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_follow_nothing(pair: tuple[Model, Any, EMA], copied: Callable[[Any], Any]) -> None:
    model, optimizer, average = pair
    other = copied(average)
    assert other.n_averaged == 1
    model.give_gradients(1)
    optimizer.step()
    assert (average.n_averaged, other.n_averaged) == (2, 1)
    twin = copied(optimizer)
    for weight in (weight for group in twin.param_groups for weight in group["params"]):
        weight.grad = torch.ones_like(weight)
    twin.step()
    assert average.n_averaged == 2


def test_sparse_gradients_and_weights_without_gradient() -> None:
    words = torch.nn.Embedding(50, 3, sparse=True)
    optimizer = onepass.SGD(words.parameters(), lr=0.5)
    average, alone = EMA(words, 0.5, optimizer=optimizer), EMA(words, 0.5)
    for row in (1, 7):
        words(torch.tensor([row, row])).sum().backward()
        optimizer.step()
        alone.update()
        optimizer.zero_grad()
    optimizer.step()  # without a gradient: a step that does nothing moves averages all the same
    alone.update()
    assert_equal(average.averages, alone.averages)


def test_dtensors_move_by_their_local_parts(mesh: Any) -> None:
    placements = [Shard(0)]
    start = randn((8, 6), torch.float32, 1)
    weight = torch.nn.Parameter(distribute_tensor(start, mesh, placements))
    optimizer = onepass.AdamW([weight], lr=0.1)
    average, alone = EMA([weight], 0.5, optimizer=optimizer), EMA([weight], 0.5)
    for seed in range(3):
        grad = randn((8, 6), torch.float32, seed)
        weight.grad = distribute_tensor(grad, mesh, placements)
        optimizer.step()
        alone.update()
    got, want = average.averages["0"], alone.averages["0"]
    assert isinstance(got, DTensor) and isinstance(want, DTensor)
    assert same_bits(got.to_local(), want.to_local())
    assert average.n_averaged == 3


def test_tied_weights_move_once_and_hooks_see_the_step() -> None:
    model = Tied(torch.float32)
    optimizer = onepass.AdamW(model.parameters(), lr=0.1)
    average, alone = EMA(model, 0.9, optimizer=optimizer), EMA(model, 0.9)
    seen: list[int] = []
    optimizer.register_step_post_hook(lambda *_: seen.append(average.n_averaged))
    for seed in range(3):
        for k, weight in enumerate(model.parameters()):
            weight.grad = randn(weight.shape, weight.dtype, 10 * seed + k)
        optimizer.step()
        alone.update()
    assert seen == [1, 2, 3]
    assert_equal(average.averages, alone.averages)


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::UserWarning")  # dynamo's, of what it leaves to Python
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_step_that_was_compiled_before_moves_it_too() -> None:
    torch._dynamo.reset()
    model = Model()
    optimizer = onepass.AdamW(model.parameters(), lr=0.1)
    step = torch.compile(optimizer.step, backend="eager")
    model.give_gradients(0)
    step()
    average, alone = EMA(model, 0.5, optimizer=optimizer), EMA(model, 0.5)
    for seed in (1, 2):
        model.give_gradients(seed)
        step()
        alone.update()
    assert average.n_averaged == 2
    assert_equal(average.averages, alone.averages)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: setattr(model.count, "data", torch.tensor([1, 2])), "shape"),
        (lambda model: setattr(model.count, "data", torch.tensor(1, dtype=torch.int8)), "dtype"),
        (lambda model: setattr(model, "scale", model.scale.to_sparse(1)), "layout"),
    ],
)
def test_buffers_that_became_others_refuse_the_step(
    change: Callable[[Model], None], said: str
) -> None:
    model = Model()
    optimizer = onepass.AdamW(model.parameters(), lr=0.1)
    average = EMA(model, 0.5, use_buffers=True, optimizer=optimizer)
    model.give_gradients(0)
    optimizer.step()
    change(model)
    before = bytes_of(model, optimizer, average)
    with pytest.raises((RuntimeError, ValueError), match=said):
        optimizer.step()
    assert bytes_of(model, optimizer, average) == before


def test_a_lazily_conjugated_view_of_a_weight_is_refused() -> None:
    weight = torch.nn.Parameter(randn((4,), torch.complex64, 1))
    optimizer = onepass.SGD([weight], lr=0.1)
    average = EMA({"w": weight, "c": weight.detach().conj()}, 0.5, optimizer=optimizer)
    weight.grad = torch.ones_like(weight)
    before = raw(weight)
    with pytest.raises(RuntimeError, match=r"'c' has layout .*conjugated"):
        optimizer.step()
    assert raw(weight) == before and average.n_averaged == 0


def test_an_average_that_nobody_holds_follows_no_longer() -> None:
    model = Model()
    optimizer = onepass.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        average = EMA(model, 0.5, optimizer=optimizer)
    model.give_gradients(0)
    optimizer.step()
    assert len(optimizer.__dict__["_averages"]) == 1
    assert average.n_averaged == 1


def test_weights_that_get_gradients_later_are_averaged_all_along() -> None:
    model = Model()
    optimizer = onepass.AdamW(model.parameters(), lr=0.1)
    average, alone = EMA(model, 0.5, optimizer=optimizer), EMA(model, 0.5)
    for seed in range(4):
        model.give_gradients(seed)
        for weight in list(model.weights)[seed + 1 :]:
            weight.grad = None
        optimizer.step()
        alone.update()
    assert_equal(average.averages, alone.averages)


def test_what_would_pass_over_an_update_or_step_by_parts_is_refused() -> None:
    class WarmedUp(EMA):
        def update(self, model: torch.nn.Module | None = None) -> None:
            self.beta = min(0.999, self.n_averaged / (10 + self.n_averaged))
            super().update(model)

    model = Model()
    optimizer = onepass.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"WarmedUp has an update\(\) of its own"):
        WarmedUp(model, 0.5, optimizer=optimizer)
    with onepass.in_backward(optimizer), pytest.raises(ValueError, match="inside backward"):
        EMA(model, 0.5, optimizer=optimizer)
    average = EMA(model, 0.5, optimizer=optimizer, update_every=3)
    with pytest.raises(RuntimeError, match="while averages follow it"):
        onepass.in_backward(optimizer)
    model.give_gradients(0)
    with average.swapped(), pytest.raises(RuntimeError, match="swapped in"):
        optimizer.step()
