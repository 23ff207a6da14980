"""States of 8 bits as tensors: their bytes, state dicts with them, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

import onepass
from onepass import _C
from onepass.rules import RULES
from tests.bad_inputs import Mode
from tests.cases import Case
from tests.coded import (
    REFUSED,
    each_coded_case,
    floats_of,
)
from tests.support import (
    assert_same,
    make_params,
    params_of,
    randn,
    raw,
    set_grads,
    snapshot,
    take_steps,
)
from tests.unchanged import refused

pytestmark = pytest.mark.sanitize


# ---- bytes


def test_the_state_takes_a_byte_a_number_and_one_a_block() -> None:
    with torch.device("meta"):
        layer = torch.nn.Linear(1024, 1000)
    whole = 2 * (1024 * 1000 + 1000 * 16) + 2 * 4 * 1000 + 2 * 4
    assert onepass.state_bytes(layer, onepass.AdamW, state_dtype=torch.int8) == whole
    (weight,) = params = make_params([(1000, 1024)])
    optimizer = onepass.AdamW(params, state_dtype=torch.int8)
    take_steps(optimizer, 1)
    assert optimizer.state_bytes() == 2 * (1024 * 1000 + 1000 * 16) + 4
    assert optimizer.state[weight]["exp_avg"].dtype == torch.int8
    assert optimizer.state[weight]["exp_avg_sq"].dtype == torch.uint8


def test_parameters_of_one_dimension_keep_floats() -> None:
    bias, number = make_params([(1000,), ()])
    optimizer = onepass.AdamW([bias, number], state_dtype=torch.int8)
    take_steps(optimizer, 1)
    for param in (bias, number):
        assert {v.dtype for v in optimizer.state[param].values()} == {torch.float32}


# ---- state dicts


@each_coded_case
def test_float32_goes_in_and_out(case: Case) -> None:
    floats = case.ours(make_params([(30, 100), (7,)]))
    take_steps(floats, 2)
    coded = case.ours(make_params([(30, 100), (7,)]), state_dtype=torch.int8)
    coded.load_state_dict(floats.state_dict())
    first = params_of(coded)[0]
    for state in RULES[case.ours.rule].states:
        want = floats.state[params_of(floats)[0]].get(state.name)
        if want is not None and not state.keeps_floats:
            pair = _C.encode_state(want, state.is_non_negative)
            assert torch.equal(coded.state[first][state.name], pair[0])
            assert torch.equal(coded.state[first][f"{state.name}_exponent"], pair[1])
    out = onepass.to_float32_state_dict(coded)
    again = case.ours(make_params([(30, 100), (7,)]))
    again.load_state_dict(out)
    assert all(not key.endswith("_exponent") for key in again.state[params_of(again)[0]])
    back = case.ours(make_params([(30, 100), (7,)]), state_dtype=torch.int8)
    back.load_state_dict(again.state_dict())
    for a, b in zip(params_of(back), params_of(coded), strict=True):
        for key, value in coded.state[b].items():
            if not key.endswith("_exponent") and f"{key}_exponent" in coded.state[b]:
                assert torch.equal(floats_of(back, a, key), floats_of(coded, b, key))
            elif not key.endswith("_exponent"):
                assert torch.equal(back.state[a][key], value), key


def test_codes_are_read_in_any_layout() -> None:
    codes, exponents = _C.encode_state(randn((200, 200), torch.float32, 1), False)
    want = _C.decode_state(codes, exponents)
    assert torch.equal(_C.decode_state(codes.t().contiguous().t(), exponents), want)
    assert torch.equal(_C.decode_state(codes, exponents.t().contiguous().t()), want)


def test_exponents_beside_floats_do_not_count() -> None:
    optimizer = onepass.AdamW(make_params([(3, 100)]), state_dtype=torch.int8)
    take_steps(optimizer, 1)
    given = optimizer.state_dict()
    own = given["state"][0]
    given["state"] = {
        0: {**own, "exp_avg": 1000 * _C.decode_state(own["exp_avg"], own["exp_avg_exponent"])}
    }
    optimizer.load_state_dict(given)
    (param,) = params_of(optimizer)
    want = _C.encode_state(given["state"][0]["exp_avg"], False)
    assert torch.equal(optimizer.state[param]["exp_avg_exponent"], want[1])


def test_a_state_on_meta_is_loaded_there() -> None:
    with torch.device("meta"):
        layer = torch.nn.Linear(100, 30)
    optimizer = onepass.AdamW(layer.parameters(), state_dtype=torch.int8)
    for param in layer.parameters():
        optimizer.state[param] = optimizer._new_state(param, optimizer.param_groups[0])
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[layer.weight]["exp_avg"].is_meta


def test_a_parameter_that_is_given_another_shape_has_other_blocks() -> None:
    """Over the same memory, its gradient, codes and exponents too, which then begin anew."""

    def put(optimizer: Any, shape: tuple[int, int]) -> None:
        (param,) = params_of(optimizer)
        param.grad = None
        param.data = param.data.view(shape).copy_(randn(shape, torch.float32, 1))
        param.grad = randn(shape, torch.float32, 2)
        own = optimizer.state[param]
        own["step"].zero_()
        for key, value in own.items():
            if value.dim():
                start = -126 if key.endswith("exponent") else 0
                own[key] = value.fill_(start).view(shape[0], -1)

    seen = []
    for shapes in (((4, 100), (2, 200)), ((2, 200),)):
        optimizer = onepass.Adam(make_params(shapes[:1]), state_dtype=torch.int8)
        take_steps(optimizer, 1)
        for shape in shapes:
            put(optimizer, shape)
            optimizer.step()
        seen.append([raw(value) for value in optimizer.state[params_of(optimizer)[0]].values()])
    assert seen[0] == seen[1]


def test_codes_load_as_other_floats_and_into_torchs_class() -> None:
    coded = onepass.AdamW(make_params([(30, 100)]), state_dtype=torch.int8)
    take_steps(coded, 2)
    brain = onepass.AdamW(make_params([(30, 100)]), state_dtype=torch.bfloat16)
    given = {**coded.state_dict(), "param_groups": brain.state_dict()["param_groups"]}
    brain.load_state_dict(given)
    (a,), (b,) = params_of(brain), params_of(coded)
    assert torch.equal(brain.state[a]["exp_avg"], floats_of(coded, b, "exp_avg").bfloat16())
    theirs = torch.optim.AdamW(make_params([(30, 100)]))
    theirs.load_state_dict(onepass.to_float32_state_dict(coded))
    (c,) = params_of(theirs)
    assert torch.equal(theirs.state[c]["exp_avg_sq"], floats_of(coded, b, "exp_avg_sq"))


# ---- bad input


@contextmanager
def refused_saying(optimizer: Any, error: type[Exception], words: str) -> Iterator[None]:
    """Expects an error with these words, and nothing changed."""
    with refused(optimizer, words, errors=(error,)):
        try:
            yield
        except error as raised:
            assert re.search(words, str(raised)), raised
            raise


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_classes_without_anything_to_store_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="Invalid state_dtype value: int8"):
        case.ours(make_params([(3, 4)]), state_dtype=torch.int8)
    kept = case.ours(make_params([(3, 4)]))
    with refused_saying(kept, ValueError, "Invalid state_dtype value: int8"):
        kept.add_param_group({"params": make_params([(2, 3)]), "state_dtype": "int8"})


def spoil(change: Any) -> Any:
    optimizer = onepass.AdamW(make_params([(3, 100)]), state_dtype=torch.int8)
    take_steps(optimizer, 1)
    change(optimizer.state[params_of(optimizer)[0]])
    return optimizer


BAD: dict[str, tuple[Any, str]] = {
    "no exponents": (lambda s: s.pop("exp_avg_exponent"), "'exp_avg_exponent'.* missing"),
    "short exponents": (
        lambda s: s.update(exp_avg_exponent=s["exp_avg_exponent"][:, :1].clone()),
        "exponents of exp_avg.*shape \\[3, 1\\].*\\[3, 2\\]",
    ),
    "exponents of floats": (
        lambda s: s.update(exp_avg_exponent=s["exp_avg_exponent"].float()),
        "exponents of exp_avg.*Float.*Char",
    ),
    "signed codes": (
        lambda s: s.update(exp_avg_sq=s["exp_avg_sq"].view(torch.int8)),
        "exp_avg_sq.*Char.*Byte",
    ),
    "transposed codes": (
        lambda s: s.update(exp_avg=s["exp_avg"].t().contiguous().t()),
        "exp_avg.*contiguous",
    ),
    "short codes": (
        lambda s: s.update(exp_avg=s["exp_avg"][:2].clone()),
        "exp_avg.*shape \\[2, 100\\]",
    ),
    "freed codes": (
        lambda s: s["exp_avg"].untyped_storage().resize_(0),
        "exp_avg.*freed or resized",
    ),
    "freed exponents": (
        lambda s: s["exp_avg_exponent"].untyped_storage().resize_(0),
        "exponents of exp_avg.*freed or resized",
    ),
    "exponents out of order": (
        lambda s: s.update(exp_avg_exponent=s["exp_avg_exponent"].t().contiguous().t()),
        "exponents of exp_avg.*contiguous",
    ),
    "no tensor": (
        lambda s: s.update(exp_avg_exponent=3.0),
        "exp_avg_exponent.* must be a tensor",
    ),
    "neither exponents": (
        lambda s: [s.pop("exp_avg_exponent"), s.pop("exp_avg_sq_exponent")],
        "'exp_avg_exponent'.* missing",
    ),
    "shared": (
        lambda s: s.update(exp_avg_sq_exponent=s["exp_avg_exponent"]),
        "shares memory",
    ),
}


TAKEN_WHEN_LOADED = ("transposed codes", "exponents out of order", "shared")


@pytest.mark.parametrize("name", BAD)
def test_codes_that_do_not_fit_are_refused(name: str) -> None:
    change, words = BAD[name]
    optimizer = spoil(change)
    set_grads(params_of(optimizer), 3)
    with refused_saying(optimizer, RuntimeError, words):
        optimizer.step()


@pytest.mark.parametrize("name", [n for n in BAD if n not in TAKEN_WHEN_LOADED])
@pytest.mark.parametrize("dtype", (torch.int8, None))
def test_saved_codes_that_do_not_fit_are_refused(name: str, dtype: Any) -> None:
    bad = spoil(BAD[name][0])
    given = bad.state_dict()
    given["param_groups"][0].pop("state_dtype")
    optimizer = onepass.AdamW(make_params([(3, 100)]), state_dtype=dtype)
    with refused_saying(optimizer, ValueError, "exp_avg"):
        optimizer.load_state_dict(given)
    with pytest.raises((ValueError, RuntimeError), match=r"exp_avg|freed"):
        onepass.to_float32_state_dict(bad)


def test_codes_of_a_complex_parameter_are_refused() -> None:
    (param,) = params = make_params([(3, 100)], torch.complex64)
    optimizer = onepass.AdamW(params)
    take_steps(optimizer, 1)
    shapes = {"exp_avg": (3, 100), "exp_avg_exponent": (3, 2)}
    for key, shape in shapes.items():
        optimizer.state[param][key] = torch.zeros(shape, dtype=torch.int8)
    set_grads(params, 3)
    with refused_saying(optimizer, RuntimeError, "both must be real"):
        optimizer.step()


def test_a_subclass_with_parts_of_its_own_is_refused() -> None:
    param = torch.nn.Parameter(TwoTensor(torch.ones(3, 4), torch.ones(3, 4)))
    param.grad = TwoTensor(torch.ones(3, 4), torch.ones(3, 4))
    optimizer = onepass.AdamW([param], state_dtype=torch.int8)
    with pytest.raises(ValueError, match="TwoTensor"):
        optimizer.step()


def test_an_optimizer_of_torch_has_nothing_to_decode() -> None:
    with pytest.raises(TypeError, match="optimizer of onepass"):
        onepass.to_float32_state_dict(torch.optim.SGD(make_params([(3,)]), lr=1.0))


def test_complex_parameters_and_odd_names_are_refused() -> None:
    with pytest.raises(ValueError, match="complex parameters need float32"):
        onepass.AdamW(make_params([(3, 4)], torch.complex64), state_dtype=torch.int8)
    with pytest.raises(ValueError, match=r"Invalid state_dtype value: .*int8"):
        onepass.AdamW(make_params([(3, 4)]), state_dtype="int4")


def test_a_gradient_with_two_sparse_dimensions_is_refused() -> None:
    param = randn((4, 5, 6), torch.float32, 1).requires_grad_()
    optimizer = onepass.Adagrad([param], state_dtype=torch.int8)
    index = torch.tensor([[1, 2], [3, 0]])
    param.grad = torch.sparse_coo_tensor(index, torch.ones(2, 6), (4, 5, 6))
    with refused_saying(optimizer, RuntimeError, "2 sparse dimensions"):
        optimizer.step()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_torch_compile_leaves_the_step_to_python_or_refuses_it() -> None:
    optimizers = [onepass.AdamW(make_params([(3, 4)]), state_dtype=torch.int8) for _ in range(2)]
    for optimizer in optimizers:
        set_grads(params_of(optimizer), 1)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="8 bits"):
        torch.compile(optimizers[0].step, backend="eager", fullgraph=True)()
    torch._dynamo.reset()
    torch.compile(optimizers[0].step, backend="eager")()
    torch._dynamo.reset()  # it would remember that step() is left to Python
    optimizers[1].step()
    assert_same(snapshot(optimizers[0]), snapshot(optimizers[1]))


def test_a_step_under_a_mode_is_refused_in_words() -> None:
    (param,) = params = make_params([(3, 4)])
    optimizer = onepass.AdamW(params, state_dtype=torch.int8)
    param.grad = torch.ones_like(param)
    with refused_saying(optimizer, RuntimeError, "8 bits"), Mode():
        optimizer.step()
