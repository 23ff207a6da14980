"""Groups, states and state dicts in containers and with company that torch takes: taken alike."""

from __future__ import annotations

import copy
import pickle
import types
from collections import ChainMap, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onepass.rules import RULES
from tests.cases import CASES, Case
from tests.support import assert_same, each_kind, params_of, randn, snapshot


class DictSubclass(dict[Any, Any]):
    pass


class ListSubclass(list[Any]):
    pass


MAPPINGS: dict[str, Callable[[Any], Any]] = {
    "OrderedDict": OrderedDict,
    "subclass": DictSubclass,
    "defaultdict": lambda d: defaultdict(dict, d),
    "UserDict": UserDict,
    "ChainMap": ChainMap,
    "proxy": types.MappingProxyType,
}
LISTS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "deque": deque,
    "subclass": ListSubclass,
    "UserList": UserList,
    "values": lambda items: dict(enumerate(items)).values(),
}
SHAPES = ((3, 4), (5,))


def fresh(case: Case, wrap: Callable[[Any], Any] = list, extra: Any = ()) -> Any:
    params = [nn.Parameter(randn(shape, torch.float32, k)) for k, shape in enumerate(SHAPES)]
    return case.ours(wrap([*params, *extra]), **case.settings[1])


def step(optimizer: Any, count: int = 2, first: int = 0) -> Any:
    for seed in range(first, first + count):
        for k, param in enumerate(params_of(optimizer)):
            if param.requires_grad:
                param.grad = randn(param.shape, torch.float32, 10 * seed + k)
        optimizer.step()
    return optimizer


def expect(case: Case) -> dict[str, Any]:
    return shown(step(fresh(case), 4))


def shown(optimizer: Any) -> dict[str, Any]:
    """Returns weights and states; only the containers may be others."""
    plain = object.__new__(type(optimizer))
    plain.__dict__.update(optimizer.__dict__)
    plain.param_groups = [{**g, "params": [*g["params"]]} for g in optimizer.param_groups]
    plain.state = {
        p: dict(own) for p, own in optimizer.state.items() if isinstance(p, nn.Parameter)
    }
    return snapshot(plain)


# ---- in the constructor and live


def every_group(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def on(optimizer: Any) -> None:
        optimizer.param_groups = [change(group) for group in optimizer.param_groups]

    return on


def replaced(name: str, kind: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda optimizer: setattr(optimizer, name, kind(getattr(optimizer, name)))


def every_state(kind: Callable[[Any], Any]) -> Callable[[Any], None]:
    def on(optimizer: Any) -> None:
        for param in params_of(optimizer):
            optimizer.state[param] = kind(optimizer.state[param])

    return on


def with_params(kind: Callable[[Any], Any]) -> Callable[[Any], None]:
    return every_group(lambda group: {**group, "params": kind(group["params"])})


LIVE = {
    **{f"params {n}": with_params(kind) for n, kind in LISTS.items()},
    "params ParameterList": with_params(nn.ParameterList),
    **{f"groups {n}": replaced("param_groups", kind) for n, kind in LISTS.items()},
    **{f"group {n}": every_group(kind) for n, kind in MAPPINGS.items()},
    **{f"state {n}": replaced("state", kind) for n, kind in MAPPINGS.items()},
    "state dict": replaced("state", dict),
    **{f"own {n}": every_state(kind) for n, kind in MAPPINGS.items()},
}


@pytest.mark.parametrize("kind", LIVE)
@each_kind
def test_live_groups_and_states_may_be_in_any_container(case: Case, kind: str) -> None:
    optimizer = step(fresh(case))
    LIVE[kind](optimizer)
    kept = [optimizer.param_groups, optimizer.state, *map(id, optimizer.param_groups)]
    step(optimizer, first=2)
    assert_same(shown(optimizer), expect(case), kind)
    assert kept[0] is optimizer.param_groups and kept[1] is optimizer.state
    assert kept[2:] == [*map(id, optimizer.param_groups)]  # the user's handles stay good
    assert optimizer.state_bytes() == step(fresh(case)).state_bytes()
    optimizer.catch_up()


@pytest.mark.parametrize("kind", ["UserDict", "ChainMap", "OrderedDict"])
@each_kind
def test_first_states_are_put_into_any_container(case: Case, kind: str) -> None:
    optimizer = fresh(case)
    optimizer.state = MAPPINGS[kind](dict(optimizer.state))
    assert_same(shown(step(optimizer, 4)), expect(case))


@each_kind
def test_a_changed_option_is_read_from_the_users_own_container(case: Case) -> None:
    optimizer, want = step(fresh(case)), step(fresh(case))
    optimizer.param_groups = UserList([UserDict(group) for group in optimizer.param_groups])
    for one in (optimizer, want):
        one.param_groups[0]["lr"] = 0.5
    assert_same(shown(step(optimizer)), shown(step(want)))


@pytest.mark.parametrize("wrap", [tuple, iter, nn.ParameterList, deque,
    lambda ps: [OrderedDict(params=tuple(ps))], lambda ps: ({"params": p} for p in ps),
    lambda ps: [{"params": iter(ps)}]])  # fmt: skip
def test_constructors_take_what_torch_takes(wrap: Callable[[Any], Any]) -> None:
    for case in CASES:
        optimizer = step(fresh(case, wrap), 4)
        want = step(fresh(case), 4)
        got = [p.detach() for p in params_of(optimizer)]
        assert all(torch.equal(a, b) for a, b in zip(got, params_of(want), strict=True)), case


def test_a_container_that_is_used_up_by_a_step_is_refused() -> None:
    """torch would step once and then do nothing without a word."""
    for change in (
        lambda g: {**g, "params": iter(g["params"])}, lambda g: {**g, "params": None},
        lambda g: {**g, "params": "abc"}, lambda g: {**g, "params": torch.ones(2)},
    ):  # fmt: skip
        optimizer = step(fresh(CASES[0]))
        before = shown(optimizer)
        params = params_of(optimizer)
        every_group(change)(optimizer)
        with pytest.raises(TypeError, match="'params' of parameter group 0 must be a list"):
            optimizer.step()
        optimizer.param_groups[0]["params"] = params
        assert_same(shown(optimizer), before)


# ---- what stands beside the states


BESIDE = {
    "number": 3, "string": "x", "None": None, "tensor": torch.ones(7), "half": torch.ones(2).half(),
    "whole": torch.ones(2).long(), "dict": {"a": torch.ones(2)}, "list": [torch.ones(1)],
    "sparse": torch.eye(2).to_sparse(),
}  # fmt: skip


@each_kind
def test_what_users_keep_beside_the_state_stays_and_disturbs_nothing(case: Case) -> None:
    optimizer = fresh(case)
    other = nn.Parameter(torch.ones(2))  # of no group
    for name, value in BESIDE.items():
        optimizer.state[name] = value
        optimizer.state[name, 1] = value
    optimizer.state[other] = {"exp_avg": torch.ones(7)}
    step(optimizer)
    del optimizer.state[other]  # which torch cannot save either
    own = optimizer.state[params_of(optimizer)[0]]
    own.update(BESIDE)
    own[7] = "seven"
    copied = copy.deepcopy(optimizer)
    pickled = pickle.loads(pickle.dumps(optimizer))
    loaded = fresh(case)
    with torch.no_grad():
        for target, source in zip(params_of(loaded), params_of(optimizer), strict=True):
            target.copy_(source)
    loaded.load_state_dict(optimizer.state_dict())
    for one in (optimizer, copied, pickled, loaded):
        step(one, first=2)
        one.state_bytes()
        one.catch_up()
        assert all(name in one.state for name in BESIDE)
        own = one.state[params_of(one)[0]]
        assert own["string"] == "x" and own[7] == "seven" and own["tensor"].tolist() == [1] * 7
        for key in (*BESIDE, 7):
            del own[key]
        weights = zip(params_of(one), params_of(step(fresh(case), 4)), strict=True)
        assert all(torch.equal(*pair) for pair in weights)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


@pytest.mark.parametrize("case", [c for c in CASES if not RULES[c.ours.rule].counts_steps], ids=str)
def test_what_stands_beside_a_state_before_the_first_step_is_kept(case: Case) -> None:
    """Lookahead keeps its slow weights so; they were dropped without a word."""
    optimizer = fresh(case)
    for param in params_of(optimizer):
        optimizer.state[param]["slow_buffer"] = param.detach().clone()
    step(optimizer, 4)
    assert all("slow_buffer" in optimizer.state[param] for param in params_of(optimizer))
    for param in params_of(optimizer):
        del optimizer.state[param]["slow_buffer"]
    assert_same(shown(optimizer), expect(case))


# ---- frozen parameters


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


FROZEN: dict[str, Callable[[], torch.Tensor]] = {
    **{str(d): lambda d=d: torch.ones(3).to(d) for d in (torch.int64, torch.uint8, torch.bool)},
    "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "complex32": lambda: torch.ones(3).to(torch.complex32),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.ones(3, device="meta"),
    "expanded": lambda: torch.ones(1).expand(4),
    "quantized": quantized,
}


@pytest.mark.filterwarnings("ignore:TypedStorage", "ignore:Complex", "ignore:torch.quantize")
@pytest.mark.parametrize("kind", FROZEN)
@each_kind
def test_a_frozen_parameter_may_be_of_any_kind(case: Case, kind: str) -> None:
    try:
        want = None if case.theirs is None else case.theirs([FROZEN[kind]()])
    except Exception:
        pytest.skip("torch's class cannot make its state either")
    assert want is None or want.param_groups
    optimizer = step(fresh(case, extra=[FROZEN[kind]()]))
    loaded = fresh(case, extra=[FROZEN[kind]()])
    with torch.no_grad():
        for target, source in zip(params_of(loaded)[:2], params_of(optimizer)[:2], strict=True):
            target.copy_(source)
    loaded.load_state_dict(optimizer.state_dict())
    for one in (optimizer, loaded, copy.deepcopy(optimizer)):
        step(one, first=2)
        want = step(fresh(case), 4)
        for param, plain in zip(params_of(one)[:2], params_of(want), strict=True):
            assert torch.equal(param, plain)


# ---- numbers


NUMBERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "float": float, "numpy.float32": lambda t: np.float32(float(t)),
    "numpy.float64": lambda t: np.float64(float(t)),
    "float64": torch.Tensor.double, "one element": lambda t: t.reshape(1),
}  # fmt: skip
COUNTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "int": int, "numpy.int64": lambda t: np.int64(int(t)), "int64": torch.Tensor.long,
    "int32": torch.Tensor.int, "half": torch.Tensor.half,
}  # fmt: skip
LOOSE = [
    *((kind, convert, ("step", "mu_product", "eta", "mu")) for kind, convert in NUMBERS.items()),
    *((kind, convert, ("step",)) for kind, convert in COUNTS.items()),
]


def loosen(own: Any, convert: Callable[[torch.Tensor], Any], keys: tuple[str, ...]) -> None:
    for key in set(keys) & own.keys():
        own[key] = convert(own[key])


@pytest.mark.parametrize("only_last", [False, True], ids=["all", "last"])
@pytest.mark.parametrize(("convert", "keys"), [row[1:] for row in LOOSE], ids=[r[0] for r in LOOSE])
@each_kind
def test_numbers_may_be_pythons_numpys_or_tensors(case: Case, convert, keys, only_last) -> None:
    live, pickled, loaded = step(fresh(case)), step(fresh(case)), fresh(case)
    saved = copy.deepcopy(live.state_dict())
    for k, own in enumerate(saved["state"].values()):
        if k or not only_last:
            loosen(own, convert, keys)
    with torch.no_grad():
        for target, source in zip(params_of(loaded), params_of(live), strict=True):
            target.copy_(source)
    loaded.load_state_dict(saved)
    for one in (live, pickled):
        for param in params_of(one)[int(only_last) :]:
            loosen(one.state[param], convert, keys)
    for one in (live, loaded, pickle.loads(pickle.dumps(pickled))):
        step(one, first=2)
        want = step(fresh(case), 4)
        for param, plain in zip(params_of(one), params_of(want), strict=True):
            torch.testing.assert_close(param, plain, rtol=1e-6, atol=1e-7)
            step_now = one.state[param].get("step")
            assert step_now is None or (isinstance(step_now, torch.Tensor) and step_now == 4)


@pytest.mark.parametrize("wrong", [1.5, -1, float("nan"), 2**53, "3", 1j, np.float32(-1), 10**400])
def test_a_number_that_is_no_count_is_refused_live_and_loaded(wrong: Any) -> None:
    for case in CASES:
        optimizer = step(fresh(case))
        param = params_of(optimizer)[1]
        if "step" not in optimizer.state[param]:
            continue
        saved, count = copy.deepcopy(optimizer.state_dict()), optimizer.state[param]["step"]
        saved["state"][1]["step"] = optimizer.state[param]["step"] = wrong
        for call in (optimizer.step, lambda s=saved: fresh(case).load_state_dict(s)):  # noqa: B023
            with pytest.raises((ValueError, RuntimeError), match="step of parameter 1 of group 0"):
                call()
        optimizer.state[param]["step"] = count
        assert_same(shown(step(optimizer, first=2)), expect(case))


# ---- state dicts


def throughout(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda saved: kind(
        {
            "state": kind({key: kind(own) for key, own in saved["state"].items()}),
            "param_groups": [kind(group) for group in saved["param_groups"]],
        }
    )


SAVED: dict[str, Callable[[Any], Any]] = {
    **{f"all {n}": throughout(kind) for n, kind in MAPPINGS.items()},
    **{
        f"groups {n}": lambda saved, kind=kind: {
            **saved,
            "param_groups": kind(
                [{**g, "params": kind(g["params"])} for g in saved["param_groups"]]
            ),
        }
        for n, kind in LISTS.items()
    },
    "params range": lambda saved: {
        **saved,
        "param_groups": [{**saved["param_groups"][0], "params": range(2)}],
    },
}


@pytest.mark.parametrize("kind", SAVED)
@each_kind
def test_state_dicts_may_be_of_any_container(case: Case, kind: str) -> None:
    source, target = step(fresh(case)), fresh(case)
    with torch.no_grad():
        for param, trained in zip(params_of(target), params_of(source), strict=True):
            param.copy_(trained)
    target.load_state_dict(SAVED[kind](copy.deepcopy(source.state_dict())))
    assert type(target.param_groups) is list and type(target.state) is defaultdict
    assert_same(shown(step(target, first=2)), expect(case))
