"""What test files share: parameters, gradients, snapshots, a float64 twin, child processes."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from onepass import _C, _versions
from onepass.rules import RULES
from tests.cases import CASES, Case

ROOT = Path(__file__).parents[1]
TORCH_CASES = tuple(case for case in CASES if case.theirs is not None)
REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex64, torch.complex128)
STATE_DTYPES = (None, *REAL)
SHAPES = ((5, 7), (), (33,), (0,), (2, 3, 4))
# Keys of a group that none of torch's classes know, and those that some of them do.
EXTRA_KEYS = {
    "eps_root",
    "decouple_lr",
    "cautious",
    "state_dtype",
    "max_grad_norm",
    "skip_nonfinite",
    "stochastic_rounding",
    "state_rounding",
}
SOMETIMES_EXTRA_KEYS = {"capturable", "fused"}

# The rows that differ in kind: no step count, optional states, the usual, numbers that a parameter
# shares, sums over a parameter. They stand for all where a promise depends on no formula.
KIND_CASES = tuple(
    case for case in CASES if str(case) in ("SGD", "RMSprop", "AdamW", "NAdam", "NovoGrad")
)
SPARSE_CASES = tuple(
    case for case in CASES if str(case) in ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW")
)

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_kind = pytest.mark.parametrize("case", KIND_CASES, ids=str)
each_sparse_case = pytest.mark.parametrize("case", SPARSE_CASES, ids=str)
each_torch_case = pytest.mark.parametrize("case", TORCH_CASES, ids=str)
each_case_with_fused = pytest.mark.parametrize(
    "case", [c for c in CASES if "fused" in inspect.signature(c.ours).parameters], ids=str
)
each_torch_fused_case = pytest.mark.parametrize(
    "case", [c for c in TORCH_CASES if "fused" in inspect.signature(c.theirs).parameters], ids=str
)


def torch_before(version: str, why: str) -> pytest.MarkDecorator:
    """Marks a test that fails, and must fail, where torch is older: its own class is at fault."""
    is_older = _versions.minor(torch.__version__) < _versions.minor(version)
    return pytest.mark.xfail(is_older, reason=f"torch before {version}: {why}", strict=True)


def cases_with(cases: Iterable[Case], **marks: pytest.MarkDecorator) -> list[Any]:
    """Returns cases as parameters, those of some names with a mark."""
    return [pytest.param(c, marks=marks.get(str(c), ()), id=str(c)) for c in cases]


# Of tests that give a parameter a gradient of another dtype.
any_grad_dtype = torch_before("2.10", "a gradient must have the dtype of its parameter")

# Torch's own Adagrad fails where parameters have no state after the constructor.
late_states = torch_before("2.12", "its Adagrad makes states in the constructor alone")
each_torch_case_with_late_states = pytest.mark.parametrize(
    "case",
    cases_with(
        TORCH_CASES,
        Adagrad=late_states,
    ),
)


def extra_keys(case: Case) -> set[str]:
    """Returns the options of our class that torch's does not have."""
    theirs = inspect.signature(case.theirs).parameters.keys() if case.theirs else set()
    ours = inspect.signature(case.ours).parameters.keys()
    return ((EXTRA_KEYS | SOMETIMES_EXTRA_KEYS) & ours) - theirs


def betas_for(case: Case, *betas: Any) -> tuple[Any, ...]:
    """Returns betas as many as the class takes; the last counts for those that are missing."""
    known = inspect.signature(case.ours).parameters
    count = len(known["betas"].default) if "betas" in known else 2
    return betas + betas[-1:] * (count - len(betas))


def numbers_of(cls: Any) -> set[str]:
    """Returns the states of a class, ours or torch's, that are one number a parameter."""
    return {number.name for number in RULES[cls.__name__.lower()].numbers}


def visible(case: Case, lr: float) -> float:
    """Returns a rate whose steps are about as long as those of others at `lr`."""
    return lr / case.ours([torch.zeros(1)]).defaults.get("trust_coefficient", 1.0)


def instruction_sets() -> list[str]:
    """Returns those that this machine can run, narrowest first."""
    names = _C.build_info()["instruction_sets"]
    return names[: names.index(_C.build_info()["instruction_set"]) + 1]


def state_dtypes(dtype: torch.dtype) -> tuple[torch.dtype | None, ...]:
    """Returns the values of state_dtype that parameters of `dtype` take."""
    return (None, torch.float32, torch.float64) if dtype in COMPLEX else STATE_DTYPES


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.lru_cache(maxsize=1024)
def _randn(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    made = torch.complex64 if dtype.is_complex else torch.float32
    return torch.randn(shape, dtype=made, generator=seeded(seed)).to(dtype)


def randn(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Returns normal numbers that are the same in every process, whatever the default dtype."""
    return _randn(tuple(shape), dtype, seed).clone()


def make_params(
    shapes: Iterable[Sequence[int]], dtype: torch.dtype = torch.float32, seed: int = 1
) -> list[Tensor]:
    return [randn(shape, dtype, 1000 * seed + k).requires_grad_() for k, shape in enumerate(shapes)]


def set_grads(params: Iterable[Tensor], seed: int) -> None:
    for k, param in enumerate(params):
        param.grad = randn(param.shape, param.dtype, 1000 * seed + 500 + k)


def take_steps(optimizer: Any, count: int, first: int = 0) -> None:
    """Takes `count` steps, along gradients that the step's number decides."""
    for number in range(first, first + count):
        set_grads(params_of(optimizer), 7 + number)
        optimizer.step()


def groups_of(params: list[Tensor]) -> list[dict[str, Any]]:
    """Returns parameters of SHAPES as two groups, of which the second has a rate of its own."""
    return [{"params": params[:3]}, {"params": params[3:], "lr": 0.03}]


def after_three_steps(cls: Any, options: dict[str, Any], dtype: torch.dtype) -> Any:
    optimizer = cls(groups_of(make_params(SHAPES, dtype)), **options)
    take_steps(optimizer, 3)
    return optimizer


def params_of(optimizer: Any) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def copies(params: Iterable[Tensor]) -> list[Tensor]:
    """Returns leaves of the same bytes and strides, with copies of the gradients."""
    made = []
    for param in params:
        made.append(param.detach().clone().requires_grad_(param.requires_grad))
        made[-1].grad = None if param.grad is None else param.grad.detach().clone()
    return made


def raw(tensor: Tensor) -> bytes:
    """Returns the bytes of the elements, in the order of the indices."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def _shown(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), raw(value.to_dense()))
    return value


def snapshot(optimizer: Any) -> dict[str, Any]:
    """Returns the bytes of parameters, gradients, states and options, by readable names."""
    seen: dict[str, Any] = {}
    for i, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key != "params":
                seen[f"group {i} {key}"] = _shown(value)
        for j, param in enumerate(group["params"]):
            where = f"{i}.{j}"
            seen[f"param {where}"] = _shown(param)
            seen[f"grad {where}"] = _shown(param.grad)
            for key, value in optimizer.state.get(param, {}).items():
                seen[f"{key} {where}"] = _shown(value)
    return seen


def assert_same(got: dict[str, Any], want: dict[str, Any], about: object = "") -> None:
    """Compares two snapshots and names what differs."""
    differing = [key for key in {**got, **want} if got.get(key) != want.get(key)]
    assert not differing, f"{about}: differ: {differing[:8]}"


def numbers(optimizer: Any) -> dict[str, Any]:
    """Returns the part of a snapshot that a step computes: parameters and states."""
    skipped = ("group", "grad")
    return {k: v for k, v in snapshot(optimizer).items() if not k.startswith(skipped)}


# ---- torch's for-loop beside ours


def both(case: Case, shapes: Any = SHAPES, seed: int = 1, **options: Any) -> tuple[Any, Any]:
    """Returns our optimizer and torch's for-loop over equal float64 parameters."""
    made = [make_params(shapes, torch.float64, seed) for _ in range(2)]
    assert case.theirs is not None
    return case.ours(made[0], **options), case.theirs(made[1], **options)


def assert_alike(ours: Any, theirs: Any, about: object = "") -> None:
    """Compares parameters, states and the options that torch knows; float64, so nearly exactly."""
    for a, b in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m: f"{about}: {m}")
        assert ours.state.get(a, {}).keys() == theirs.state.get(b, {}).keys(), about
        for name, value in theirs.state.get(b, {}).items():
            torch.testing.assert_close(ours.state[a][name], value, rtol=1e-10, atol=1e-12)
    for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert {k: a[k] for k in b if k != "params"} == {
            k: v for k, v in b.items() if k != "params"
        }


def step_both(ours: Any, theirs: Any, count: int = 3, first: int = 0) -> None:
    for optimizer in (ours, theirs):
        take_steps(optimizer, count, first)
    assert_alike(ours, theirs)


# ---- the float64 for-loop as the measure


def double_twin(case: Case, optimizer: Any) -> Any:
    """Returns torch's class in float64 (complex128) with the very numbers of `optimizer`."""
    groups = []
    for group in optimizer.param_groups:
        wide = [
            p.detach()
            .to(torch.complex128 if p.is_complex() else torch.float64)
            .requires_grad_(p.requires_grad)
            for p in (q.clone() for q in group["params"])
        ]
        for ours, theirs in zip(group["params"], wide, strict=True):
            theirs.grad = None if ours.grad is None else ours.grad.detach().to(theirs.dtype)
        groups.append({"params": wide})
    assert case.theirs is not None
    twin = case.theirs(groups)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin.defaults.update(twin.param_groups[0])  # of which torch's Adagrad makes its states
    for group in twin.param_groups:
        group.update(foreach=False, fused=None)
    for param, state in twin.state.items():  # torch casts states of real parameters only
        state.update({k: v.to(param.dtype) for k, v in state.items() if v.is_complex()})
    for ours, theirs in zip(params_of(optimizer), params_of(twin), strict=True):
        for number in RULES[case.ours.rule].numbers if optimizer.state.get(ours) else ():
            twin.state[theirs][number.name] = optimizer.state[ours][number.name].clone()
    return twin


def bound(before: Tensor, after: Tensor, dtype: torch.dtype, terms: Tensor) -> Tensor:
    """Returns 2 ulp of S = |before| + |after| + 2 |after - before| + terms, as `dtype` computes.

    A narrower stored type adds one rounding of the result.
    """
    scale = before.abs() + after.abs() + 2 * (after - before).abs() + terms
    stored = torch.finfo(dtype)
    if stored.eps < 1e-10:
        return 1e-12 * scale + stored.tiny
    rounding = 0.0 if stored.bits == 32 else stored.eps
    return 2 * 2.0**-23 * scale + rounding * after.abs() + stored.smallest_normal * stored.eps


def assert_steps_like_double(case: Case, optimizer: Any, about: object = "") -> None:
    """Takes one step, and compares parameters and states with float64 from the same numbers."""
    twin = double_twin(case, optimizer)
    before = _wide(twin)
    decay = _coupled_decay(twin)
    numbers = {number.name: torch.float32 for number in RULES[case.ours.rule].numbers}
    dtypes = {"step": torch.float64, **numbers}  # of what torch computes apart from the elements
    twin.step()
    optimizer.step()
    for (name, k), want in _wide(twin).items():
        got = _tensors(optimizer)[name, k].detach()
        had = before.get((name, k), torch.zeros_like(want))
        terms = torch.zeros(()) if name in {"param", *dtypes} else decay.get(k, torch.zeros(()))
        limit = bound(had, want, dtypes.get(name, got.dtype), terms)
        error = (got.to(want.dtype) - want).abs()
        worst = float((error / limit).nan_to_num().max()) if error.numel() else 0.0
        assert worst <= 1.0, f"{about} {name} {k}: {worst:.3g} of the bound"


def _coupled_decay(twin: Any) -> dict[int, Tensor]:
    """Returns how large the terms are that coupled decay adds, and may cancel, in the gradient."""
    terms, k = {}, 0
    for group in twin.param_groups:
        for param in group["params"]:
            if group.get("weight_decay") and param.grad is not None:
                size = (group["weight_decay"] * param.detach()).abs() + param.grad.abs()
                terms[k] = size + size * size
            k += 1
    return terms


def _tensors(optimizer: Any) -> dict[tuple[str, int], Tensor]:
    found: dict[tuple[str, int], Tensor] = {}
    for k, param in enumerate(params_of(optimizer)):
        found["param", k] = param
        for key, value in optimizer.state.get(param, {}).items():
            found[key, k] = value
    return found


def _wide(twin: Any) -> dict[tuple[str, int], Tensor]:
    return {key: value.detach().clone() for key, value in _tensors(twin).items()}


# ---- other processes


def start_python(arguments: Sequence[object], **environment: str) -> subprocess.Popen[str]:
    """Starts Python in the root of the checkout; `finish` waits for it."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120.0) -> str:
    """Waits for a process and returns what it printed; it must have ended well."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{err}"
    return out


def run_python(arguments: Sequence[object], timeout: float = 120.0, **environment: str) -> str:
    return finish(start_python(arguments, **environment), timeout)
