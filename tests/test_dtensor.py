"""DTensors: stepped by what each process holds of them, whatever is around the step."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.experimental import implicit_replication
from torch.utils.flop_counter import FlopCounterMode

import onepass
from onepass.rules import RULES
from tests.cases import CASES, Case
from tests.oracle import all_states_on, state_names
from tests.support import (
    KIND_CASES,
    each_case,
    each_case_with_fused,
    make_params,
    params_of,
    randn,
    raw,
    run_python,
    set_grads,
)
from tests.test_dispatch import Watching


def shared(case: Case) -> set[str]:
    """Returns what the state keeps as one number of the whole parameter."""
    return {"step", *(number.name for number in RULES[case.ours.rule].numbers)}


def moved(params: list[Tensor], before: list[bytes]) -> bool:
    """Returns whether all weights moved; a step that does nothing has nothing to be wrong with."""
    return all(raw(param) != old for param, old in zip(params, before, strict=True))


def locals_of(optimizer: Any) -> list[Tensor]:
    return [param.to_local().detach() for param in params_of(optimizer)]


def distributed(param: Tensor, mesh: Any, placement: Any) -> Tensor:
    leaf: Tensor = distribute_tensor(param.detach().clone(), mesh, [placement]).requires_grad_()
    return leaf


@each_case
@pytest.mark.parametrize("placement", (Shard(0), Replicate()), ids=str)
def test_dtensors_step_as_their_local_tensors(case: Case, mesh: Any, placement: Any) -> None:
    for options in (*case.settings, *case.extras):
        plain = case.ours(make_params(((6, 4), (3,))), **options)
        spread = case.ours(
            [distributed(param, mesh, placement) for param in params_of(plain)], **options
        )
        for number in range(3):
            set_grads(params_of(plain), number)
            for a, b in zip(params_of(spread), params_of(plain), strict=True):
                a.grad = distribute_tensor(b.grad.clone(), mesh, [placement])
            plain.step()
            spread.step()
        for a, b in zip(params_of(spread), params_of(plain), strict=True):
            assert raw(a.full_tensor()) == raw(b), options
            for name, value in spread.state[a].items():
                if name not in shared(case):
                    assert isinstance(value, DTensor) and value.placements == (placement,)
                    value = value.full_tensor()
                assert raw(value) == raw(plain.state[b][name]), name
        assert spread.state_bytes() == plain.state_bytes()


@pytest.mark.parametrize("case", [c for c in KIND_CASES if not RULES[c.ours.rule].sums], ids=str)
def test_dtensors_take_no_python_call_each(case: Case, mesh: Any) -> None:
    """Which is what makes FSDP's steps slow: torch's own takes some hundred for each parameter."""
    counts = []
    for number in (2, 30):
        params = [distributed(torch.ones(4), mesh, Shard(0)) for _ in range(number)]
        optimizer = case.ours(params, **case.settings[1])
        for param in params:
            param.grad = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
        optimizer.step()
        calls: list[str] = []
        sys.setprofile(lambda _, event, __, calls=calls: calls.append(event))  # type: ignore[misc]
        optimizer.step()
        sys.setprofile(None)
        counts.append(calls.count("call"))
    assert counts[0] == counts[1] > 0


def test_dtensors_that_come_to_be_placed_otherwise_are_stepped_by_what_they_hold(mesh: Any) -> None:
    """Whatever was found out in the steps before."""
    params = [distributed(torch.ones(4, 4), mesh, Shard(0)) for _ in range(2)]
    plain = [torch.ones(4, 4, requires_grad=True) for _ in range(2)]
    spread, twin = onepass.AdamW(params, lr=0.1), onepass.AdamW(plain, lr=0.1)
    placements = (Shard(0), Shard(1), Replicate(), Partial(), Shard(0))
    for step, placement in enumerate(placements):
        for k, (a, b) in enumerate(zip(params, plain, strict=True)):
            b.grad = randn((4, 4), torch.float32, 10 * step + k)
            a.grad = DTensor.from_local(b.grad.clone(), mesh, [placement])
        if step == 3:
            for a in params:  # by another object, of other memory
                local = a.to_local().detach().clone()
                a._local_tensor = local
                spread.state[a]["exp_avg"] = distribute_tensor(
                    spread.state[a]["exp_avg"].full_tensor(), mesh, [Shard(1)]
                )
        spread.step()
        twin.step()
        for a, b in zip(params, plain, strict=True):
            assert raw(a.to_local()) == raw(b), placement
            assert a._version > 0


def test_meshes_that_are_equal_are_one(mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's operators answer with the first of them: new states may stand on another object."""
    other = init_device_mesh("cpu", (1,))
    assert other == mesh and other is not mesh
    on = {"grad": mesh, "exp_avg": mesh, "exp_avg_sq": mesh}
    for key in ("none", *on):
        param = distributed(torch.ones(4, 3), other, Shard(0))
        optimizer = onepass.AdamW([param], lr=0.1)
        new_state = optimizer._new_state

        def moved_state(*arguments: Any, key: str = key, new_state: Any = new_state) -> Any:
            state = new_state(*arguments)
            if key in state:
                state[key] = distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)])
            return state

        monkeypatch.setattr(optimizer, "_new_state", moved_state)
        for _ in range(2):
            param.grad = distribute_tensor(torch.ones(4, 3), on.get(key, other), [Shard(0)])
            optimizer.step()
        assert bool((param.to_local() < 0.9).all()), key


PARTS = """
import onepass, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
mesh = init_device_mesh("cpu", (2,))
for cls, options in ((onepass.LAMB, {}), (onepass.LARS, {}), (onepass.NovoGrad, {}),
                     (onepass.Lion, {"cautious": True}), (onepass.Lion, {})):
    for placement in (Shard(0), Replicate()):
        param = DTensor.from_local(torch.ones(2, 3), mesh, [placement]).requires_grad_()
        param.grad = DTensor.from_local(torch.ones(2, 3), mesh, [placement])
        try:
            cls([param], lr=0.5, **options).step()
            print("stepped", bool((param.to_local() != 1).all()))
        except TypeError as error:
            print("refused", "holds a part" in str(error), param.to_local().sum().item())
"""


def test_who_sums_over_a_parameter_refuses_to_step_a_part_of_one() -> None:
    said = run_python(["-c", PARTS]).splitlines()
    assert said == [*["refused True 6.0", "stepped True"] * 4, *["stepped True"] * 2]


SUMMING = [case for case in CASES if RULES[case.ours.rule].sums]


@pytest.mark.parametrize("case", SUMMING, ids=str)
@pytest.mark.parametrize("marks", ({"ds_id": "0_5"}, {"_is_flat_param": True}), ids=str)
def test_who_sums_over_a_parameter_refuses_several_laid_end_to_end(
    case: Case, mesh: Any, marks: dict[str, Any]
) -> None:
    """The marks of DeepSpeed's ZeRO 3 and of FSDP1; even one process has no norms of each then."""
    for watched in (nullcontext, Watching):
        param = torch.nn.Parameter(torch.ones(12))
        vars(param).update(marks)
        param.grad = torch.ones(12)
        optimizer = case.ours([param])
        with pytest.raises(TypeError, match="laid end to end"), watched():
            optimizer.step()
        assert raw(param) == raw(torch.ones(12)) and not optimizer.state
        onepass.AdamW([param], lr=0.1).step()
        assert raw(param) != raw(torch.ones(12))


def test_averages_of_dtensors_are_those_of_their_local_tensors(mesh: Any) -> None:
    plain = make_params(((6, 4), (3,)))
    spread = [distributed(param, mesh, Shard(0)) for param in plain]
    ours, want = (onepass.ema.EMA(params, beta=0.9) for params in (spread, plain))
    for seed in range(3):
        with torch.no_grad():
            for a, b in zip(spread, plain, strict=True):
                b.copy_(randn(b.shape, b.dtype, seed))
                a.copy_(distributed(b, mesh, Shard(0)))
        ours.update()
        want.update()
    with ours.swapped():
        for name, a, average in zip("01", spread, ours.averages.values(), strict=True):
            assert isinstance(average, DTensor) and average.placements == (Shard(0),)
            assert raw(a.full_tensor()) == raw(average.full_tensor()) == raw(want.averages[name])
    assert all(raw(a.full_tensor()) == raw(b) for a, b in zip(spread, plain, strict=True))


@each_case_with_fused
def test_a_skipped_step_of_dtensors_changes_nothing(case: Case, mesh: Any) -> None:
    for steps in (0, 1):
        optimizer = case.ours([distributed(make_params(((6, 4),))[0], mesh, Shard(0))], fused=True)
        (param,) = params_of(optimizer)
        param.grad = distribute_tensor(torch.ones(6, 4), mesh, [Shard(0)])
        for _ in range(steps):
            optimizer.step()
        before = raw(param.full_tensor()), len(optimizer.state)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
        optimizer.step()
        assert (raw(param.full_tensor()), len(optimizer.state)) == before
        assert raw(param.grad.full_tensor()) == raw(torch.ones(6, 4))


@each_case_with_fused
def test_a_scaled_gradient_of_dtensors_is_unscaled(case: Case, mesh: Any) -> None:
    for scale in (torch.tensor(4.0), torch.tensor([4.0]), torch.tensor(4.0).double()):
        plain = case.ours(make_params(((6, 4),)), fused=True)
        spread = case.ours([distributed(params_of(plain)[0], mesh, Shard(0))], fused=True)
        set_grads(params_of(plain), 1)
        (a,), (b,) = params_of(spread), params_of(plain)
        a.grad = distribute_tensor(b.grad.clone(), mesh, [Shard(0)])
        for optimizer in (plain, spread):
            optimizer.grad_scale, optimizer.found_inf = scale, torch.tensor(0.0)
            optimizer.step()
        assert raw(a.full_tensor()) == raw(b)
        assert raw(a.grad.full_tensor()) == raw(b.grad)


@each_case
def test_dtensor_state_loads_into_a_new_optimizer(case: Case, mesh: Any) -> None:
    plain = make_params(((6, 4), (3,)))
    first = case.ours([distributed(p, mesh, Shard(0)) for p in plain])
    for param in params_of(first):
        param.grad = distributed(param.full_tensor(), mesh, Shard(0)).detach()
    first.step()
    second = case.ours([distributed(p.full_tensor(), mesh, Shard(0)) for p in params_of(first)])
    second.load_state_dict(first.state_dict())
    for optimizer in (first, second):
        for param in params_of(optimizer):
            param.grad = distributed(torch.ones(param.shape), mesh, Shard(0)).detach()
        optimizer.step()
    for a, b in zip(params_of(first), params_of(second), strict=True):
        assert raw(a.full_tensor()) == raw(b.full_tensor())


BAD_OPTIONS = (("lr", -1.0), ("weight_decay", float("nan")))


@pytest.mark.parametrize(
    "case, option, value",
    [(c, *bad) for c in CASES for bad in BAD_OPTIONS if bad[0] in c.ours([torch.ones(1)]).defaults],
    ids=str,
)
def test_a_bad_option_of_the_second_group_changes_no_dtensor_of_the_first(
    case: Case, mesh: Any, option: str, value: float
) -> None:
    params = [distributed(p, mesh, Shard(0)) for p in make_params(((6, 4), (3,)))]
    optimizer = case.ours([{"params": [param]} for param in params])
    for param in params:
        param.grad = distribute_tensor(torch.ones(param.shape), mesh, [Shard(0)])
    before = [raw(param.full_tensor()) for param in params], len(optimizer.state)
    optimizer.param_groups[1][option] = value
    with pytest.raises(ValueError, match="Invalid"):
        optimizer.step()
    assert ([raw(param.full_tensor()) for param in params], len(optimizer.state)) == before


@each_case
def test_a_bad_state_in_the_second_group_changes_no_dtensor_of_the_first(
    case: Case, mesh: Any
) -> None:
    params = [distributed(p, mesh, Shard(0)) for p in make_params(((6, 4), (3,)))]
    optimizer = case.ours([{"params": [param]} for param in params], **all_states_on(case))
    for param in params:
        param.grad = distribute_tensor(torch.ones(param.shape), mesh, [Shard(0)])
    optimizer.step()
    name = state_names(case, optimizer.param_groups[1])[0]
    optimizer.state[params[1]][name] = distribute_tensor(torch.ones(7), mesh, [Shard(0)])
    before = [raw(param.full_tensor()) for param in params]
    steps = [float(optimizer.state[param].get("step", 1)) for param in params]
    with pytest.raises(RuntimeError, match="shape"):
        optimizer.step()
    assert [raw(param.full_tensor()) for param in params] == before
    assert [float(optimizer.state[param].get("step", 1)) for param in params] == steps


def test_a_plain_gradient_is_a_replicated_one_where_torch_says_so(mesh: Any) -> None:
    for shape, placement in (((), Replicate()), ((1,), Shard(0)), ((2, 3), Shard(1))):
        param = distributed(torch.ones(shape), mesh, placement)
        param.grad = torch.ones(shape)
        optimizer = onepass.AdamW([param], lr=0.1)
        if param.numel() > 1:
            with pytest.raises(TypeError, match="is a DTensor, but its gradient is a Tensor"):
                optimizer.step()
        with implicit_replication():
            optimizer.step()
        torch.testing.assert_close(param.full_tensor(), torch.full(shape, 0.899))


def test_dtensors_of_fake_tensors_step(mesh: Any) -> None:
    with FakeTensorMode():
        param = DTensor.from_local(torch.ones(4), mesh, [Shard(0)], run_check=False)
        param = param.requires_grad_()
        param.grad = torch.ones_like(param)
        optimizer = onepass.AdamW([param])
        optimizer.step()
        assert isinstance(optimizer.state[param]["exp_avg"].to_local(), FakeTensor)


# ---- modes that see every operation, and the compiler


MODES = {
    "a mode": Watching,
    "FlopCounterMode": lambda: FlopCounterMode(display=False),
    "CommDebugMode": CommDebugMode,
}


def spread_and_plain(
    case: Case, options: dict[str, Any], mesh: Any, placement: Any
) -> tuple[Any, Any]:
    plain = case.ours(make_params(((6, 4), (3,))), **options)
    params = [distributed(param, mesh, placement) for param in params_of(plain)]
    beside = params_of(plain)[0].detach().clone().requires_grad_()
    return case.ours([*params, beside], **options), plain


def set_spread_grads(spread: Any, plain: Any, number: int, mesh: Any, placement: Any) -> None:
    set_grads(params_of(plain), number)
    for a, b in zip(params_of(spread), (*params_of(plain), params_of(plain)[0]), strict=True):
        a.grad = b.grad.clone()
        if isinstance(a, DTensor):
            a.grad = distribute_tensor(a.grad, mesh, [placement])


def assert_as_plain(spread: Any, plain: Any, placement: Any, about: object) -> None:
    for a, b in zip(params_of(spread), (*params_of(plain), params_of(plain)[0]), strict=True):
        assert raw(a.full_tensor() if isinstance(a, DTensor) else a) == raw(b), about
        assert spread.state.get(a, {}).keys() == plain.state.get(b, {}).keys(), about
        for name, value in spread.state.get(a, {}).items():
            if isinstance(a, DTensor) and value.ndim:
                assert value.placements == (placement,), about
                value = value.full_tensor()
            assert raw(value) == raw(plain.state[b][name]), f"{about} {name}"


@each_case
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_mode_around_the_step_of_dtensors_changes_nothing(
    case: Case, mesh: Any, mode: Any
) -> None:
    for options in (*case.settings, *case.extras):
        spread, plain = spread_and_plain(case, options, mesh, Shard(0))
        before = [raw(param) for param in params_of(plain)]
        for number in range(3):
            set_spread_grads(spread, plain, number, mesh, Shard(0))
            plain.step()
            with mode():
                spread.step()
        assert moved(params_of(plain), before)
        assert_as_plain(spread, plain, Shard(0), options)


@each_case
def test_a_mode_around_the_step_refuses_dtensors_as_the_step_does(case: Case, mesh: Any) -> None:
    params = [distributed(p, mesh, Shard(0)) for p in make_params(((6, 4), (3,)))]
    optimizer = case.ours([{"params": [param]} for param in params])
    for param in params:
        param.grad = distribute_tensor(torch.ones(param.shape), mesh, [Shard(0)])
    before = [raw(param.full_tensor()) for param in params], len(optimizer.state)
    optimizer.param_groups[1]["lr"] = -1.0
    with pytest.raises(ValueError, match="Invalid"), Watching():
        optimizer.step()
    assert ([raw(param.full_tensor()) for param in params], len(optimizer.state)) == before


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:Profiler record function")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@each_case
def test_the_compiled_step_of_dtensors_is_the_eager_one(case: Case, mesh: Any) -> None:
    """With a gradient that has to be redistributed, and one that has not."""
    torch._dynamo.reset()
    options = case.settings[1]
    spread, plain = spread_and_plain(case, options, mesh, Replicate())
    step = torch.compile(spread.step, backend="aot_eager", fullgraph=True)
    before = [raw(param) for param in params_of(plain)]
    for number in range(3):
        set_spread_grads(spread, plain, number, mesh, Replicate())
        first = params_of(spread)[0]
        first.grad = DTensor.from_local(first.grad.to_local(), mesh, [Partial()])
        plain.step()
        step()
    assert moved(params_of(plain), before)
    assert_as_plain(spread, plain, Replicate(), options)
    torch._dynamo.reset()
