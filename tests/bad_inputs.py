"""The table of bad input: what is wrong, how to make it so, what the error must say.

A row spoils one parameter of an optimizer, whose parameters have the shape SHAPE, or one of its
states, or an option of its group.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from onepass.rules import RULES
from tests.cases import Case
from tests.oracle import all_states_on, op_lists, op_options, operands_of, state_names

SHAPE = (3, 4)
MAY_BE_NEGATIVE = {"dampening", "t0"}  # of the hyper-parameters
Spoil = Callable[[Any, Tensor], None]


@dataclass(frozen=True)
class Bad:
    what: str
    spoil: Spoil
    says: str = ""  # a pattern for what the error must name beside the parameter
    of_state: bool = False  # can be done only to a parameter that has a state
    names_parameter: bool = True

    def __str__(self) -> str:
        return self.what


def make(case: Case, *, stepped: bool, named: bool = False, **options: Any) -> Any:
    """Returns an optimizer over parameters 0 and 1 of group 0 and parameter 0 of group 1."""
    generator = torch.Generator().manual_seed(3)
    params = [torch.randn(SHAPE, generator=generator).requires_grad_() for _ in range(3)]
    for param in params:
        param.grad = torch.randn(SHAPE, generator=generator)
    given = list(zip(("first", "second", "third"), params, strict=True)) if named else params
    groups = [{"params": given[:2]}, {"params": given[2:]}]
    optimizer = case.ours(groups, **{**all_states_on(case), "lr": 0.1, **options})
    for _ in range(2 if stepped else 0):
        optimizer.step()
    return optimizer


def op_arguments(case: Case) -> dict[str, Any]:
    """Returns the arguments of the algorithm's op for three parameters."""
    made = make(case, stepped=True)
    params, *others = op_lists(case, [operands for operands, _ in operands_of(case, made)])
    lists = [[param.detach() for param in params], *others]
    return {"lists": lists, "options": op_options(case, made.param_groups[0])}


class Wrapper(Tensor):
    """A tensor of a class of its own, such as others keep quantised numbers in."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        made: Wrapper = Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=inner.device
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return "Wrapper()"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        def inner(value: Any) -> Any:
            return value.inner if isinstance(value, Wrapper) else value

        return function(*tree_map(inner, args), **tree_map(inner, kwargs or {}))


class Mode(TorchDispatchMode):
    """An active mode sends the step through torch's dispatcher."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return function(*args, **(kwargs or {}))


def group_of(optimizer: Any, param: Tensor) -> tuple[dict[str, Any], int]:
    """Returns the group of a parameter and the place in it."""
    for group in optimizer.param_groups:
        for place, other in enumerate(group["params"]):
            if other is param:
                return group, place
    raise AssertionError("the parameter is in no group")


# ---- gradients and parameters


def grad_data(value: Tensor) -> Spoil:
    def spoil(_: Any, param: Tensor) -> None:
        param.grad.data = value.clone()

    return spoil


def grad(make_grad: Callable[[Tensor], Tensor]) -> Spoil:
    def spoil(_: Any, param: Tensor) -> None:
        param.grad = make_grad(param)

    return spoil


def data(value: Callable[[], Tensor]) -> Spoil:
    def spoil(_: Any, param: Tensor) -> None:
        param.data = value()

    return spoil


def in_list(value: Callable[[], Any]) -> Spoil:
    """Replaces the parameter in its group, as frameworks do after construction."""

    def spoil(optimizer: Any, param: Tensor) -> None:
        group, place = group_of(optimizer, param)
        group["params"][place] = value()
        if param in optimizer.state:
            optimizer.state[group["params"][place]] = optimizer.state.pop(param)

    return spoil


def with_grad(param: Tensor) -> Tensor:
    param.grad = torch.zeros_like(param)
    return param


def storage(of: Callable[[Any, Tensor], Tensor], size: int) -> Spoil:
    return lambda optimizer, param: of(optimizer, param).untyped_storage().resize_(size)


def inference(make_tensor: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode():
        return make_tensor()


FREED = r"needs \d+ bytes of storage, but its storage has \d+"
OVERLAP = r"sizes \[3, 4\] and strides \[\d, \d\]"


def out_of_range(index: int = 9, shape: tuple[int, int] = SHAPE) -> Tensor:
    """Returns a sparse gradient that no algorithm takes."""
    indices, values = torch.tensor([[index], [0]]), torch.ones(1)
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False)


SPARSE = "does not support sparse gradients|has the sparse index 9 in dimension 0.* size 3"

GRADIENTS = [
    Bad("gradient of another size", grad_data(torch.zeros(5)), r"gradient.*\[5\].*\[3, 4\]"),
    Bad("transposed", grad_data(torch.zeros(4, 3)), r"gradient.*\[4, 3\].*\[3, 4\]"),
    Bad("one dimension more", grad_data(torch.zeros(1, 3, 4)), r"\[1, 3, 4\].*\[3, 4\]"),
    Bad("0-dim gradient", grad_data(torch.zeros(())), r"gradient.*\[\].*\[3, 4\]"),
    Bad("empty gradient", grad_data(torch.zeros(0)), r"gradient.*\[0\].*\[3, 4\]"),
    Bad("int32 gradient", grad_data(torch.zeros(SHAPE, dtype=torch.int32)), r"gradient.*Int"),
    Bad("bool gradient", grad_data(torch.zeros(SHAPE, dtype=torch.bool)), r"gradient.*Bool"),
    Bad(
        "float8 gradient",
        grad_data(torch.zeros(SHAPE, dtype=torch.float8_e4m3fn)),
        r"gradient.*Float8",
    ),
    Bad(
        "complex gradient",
        grad_data(torch.zeros(SHAPE, dtype=torch.complex64)),
        r"gradient.*ComplexFloat.*Float",
    ),
    Bad("sparse gradient", grad(lambda p: out_of_range()), SPARSE, False, False),
    Bad("freed gradient", storage(lambda _, p: p.grad, 0), rf"gradient.*{FREED}"),
    Bad("shrunk gradient", storage(lambda _, p: p.grad, 47), rf"gradient.*{FREED}"),
    Bad("gradient of a class of its own", grad(lambda p: Wrapper(torch.zeros(SHAPE))), "Wrapper"),
]
PARAMETERS = [
    Bad("expanded", data(lambda: torch.zeros(1, 4).expand(SHAPE)), OVERLAP),
    Bad("windows", data(lambda: torch.zeros(12).as_strided(SHAPE, (1, 1))), OVERLAP),
    Bad("rows overlap", data(lambda: torch.zeros(12).as_strided(SHAPE, (3, 1))), OVERLAP),
    Bad("freed parameter", storage(lambda _, p: p, 0), FREED),
    Bad("shrunk parameter", storage(lambda _, p: p, 40), FREED),
    Bad("negated", data(lambda: torch.zeros(SHAPE, dtype=torch.cfloat).conj().imag), "resolve_neg"),
    Bad("int32", in_list(lambda: with_grad(torch.zeros(SHAPE, dtype=torch.int32))), "dtype Int"),
    Bad("inference", in_list(lambda: inference(lambda: with_grad(torch.zeros(SHAPE)))), "nference"),
    Bad("complex", data(lambda: torch.zeros(SHAPE, dtype=torch.complex64)), r"dtype.*Float"),
    Bad("a number", in_list(lambda: 5.0), "must be a tensor, got float"),
    Bad("None", in_list(lambda: None), "must be a tensor, got NoneType"),
]


# ---- options of the group


def option(key: str, value: Any) -> Spoil:
    return lambda optimizer, param: group_of(optimizer, param)[0].__setitem__(key, value)


def without_option(key: str) -> Spoil:
    return lambda optimizer, param: group_of(optimizer, param)[0].pop(key)


OPTIONS = [
    Bad("lr nan", option("lr", float("nan")), "Invalid learning rate: nan", False, False),
    Bad("lr -1", option("lr", -1.0), "Invalid learning rate: -1", False, False),
    Bad("lr of 2", option("lr", torch.ones(2)), "Tensor lr must be 1-element", False, False),
    Bad("lr a string", option("lr", "0.1"), "lr.*str", False, False),
    Bad("no lr", without_option("lr"), "'lr'", False, False),
]


def _infinite(key: str) -> Bad:
    return Bad(f"{key} inf", option(key, float("inf")), f"{key}.*inf", False, False)


# ---- states


def entry(name: str, value: Any) -> Spoil:
    return lambda optimizer, param: optimizer.state[param].__setitem__(
        name, value() if callable(value) else copy.deepcopy(value)
    )


def without_entry(name: str) -> Spoil:
    return lambda optimizer, param: optimizer.state[param].pop(name)


def _state_rows(name: str) -> list[Bad]:
    """Returns what a state must not be."""

    def row(what: str, value: Any, says: str) -> Bad:
        return Bad(f"{name} {what}", entry(name, value), rf"{name}.*{says}", True)

    half, wrong = torch.zeros(SHAPE), "has shape"
    rows = [
        row("shorter", torch.zeros(4), rf"{wrong} \[4\].*\[3, 4\]"),
        row("longer", torch.zeros(300), rf"{wrong} \[300\].*\[3, 4\]"),
        row("transposed", torch.zeros(4, 3), rf"{wrong} \[4, 3\].*\[3, 4\]"),
        row("0-dim", torch.zeros(()), rf"{wrong} \[\].*\[3, 4\]"),
        row("empty", torch.zeros(0, 4), rf"{wrong} \[0, 4\].*\[3, 4\]"),
        row("int64", torch.zeros(SHAPE, dtype=torch.int64), "dtype Long"),
        row("bool", torch.zeros(SHAPE, dtype=torch.bool), "dtype Bool"),
        row("complex", torch.zeros(SHAPE, dtype=torch.complex64), "dtype ComplexFloat.*Float"),
        row("on meta", torch.zeros(SHAPE, device="meta"), "meta.*cpu"),
        row("sparse", lambda: torch.zeros(SHAPE).to_sparse(), "layout Sparse.*to_dense"),
        row("expanded", lambda: torch.zeros(3, 1).expand(SHAPE), OVERLAP),
        row("inference", lambda: inference(lambda: torch.zeros(SHAPE)), "nference"),
        row("a number", 0.5, "must be a tensor, got float"),
        row("a list", [half], "must be a tensor, got list"),
        row("of a class of its own", lambda: Wrapper(torch.zeros(SHAPE)), "Wrapper|kind"),
    ]
    for size in (0, 47):
        freed = storage(lambda optimizer, param: optimizer.state[param][name], size)
        rows.append(Bad(f"{name} with {size} bytes", freed, rf"{name}.*{FREED}", True))
    return rows


def _absent_rows(name: str) -> list[Bad]:
    return [
        Bad(f"{name} None", entry(name, None), f"{name}.*must be a tensor, got NoneType", True),
        Bad(f"no {name}", without_entry(name), f"{name}.*missing", True),
    ]


def _number_rows(name: str, right: str) -> list[Bad]:
    """Returns what a state that is one number must not be; `right` is what it must be."""

    def row(value: Any, says: str) -> Bad:
        return Bad(f"{name} {value!r}", entry(name, value), rf"{name}.*{says}", True)

    def tensor(value: Any, says: str, **kind: Any) -> Bad:
        return row(torch.tensor(value, **kind), says)

    def freed(size: int) -> Bad:
        spoil = storage(lambda optimizer, param: optimizer.state[param][name], size)
        return Bad(f"{name} with {size} bytes", spoil, f"{name}.*{FREED}", True)

    return [
        *(tensor(x, rf"is {x}, but must.*{right}") for x in (float("nan"), float("inf"))),
        tensor([1.0, 2.0], "one element"),
        tensor([], "one element"),
        tensor(1 + 0j, "dtype ComplexFloat"),
        tensor(True, "dtype Bool"),
        tensor(1.0, "CPU", device="meta"),
        row("3", "must be a number.*got '3'"),
        Bad(
            f"inference {name}",
            entry(name, lambda: inference(lambda: torch.ones(()))),
            rf"{name}.*nference",
            True,
        ),
        freed(0),
        freed(3),
        *_absent_rows(name),
    ]


def _step_rows() -> list[Bad]:
    def tensor(value: Any, **kind: Any) -> Bad:
        says = rf"step.* is {value:g}, but.*whole"
        return Bad(f"step {value}", entry("step", torch.tensor(value, **kind)), says, True)

    return [
        tensor(-1.0),
        tensor(-1, dtype=torch.int64),
        tensor(0.5),
        *_number_rows("step", "whole"),
    ]


STATE_A_LIST = Bad("state a list", lambda o, p: o.state.__setitem__(p, [1]), "state.*dict", True)


# ---- memory in common


def _shared(first: str, second: str, shift: int) -> Bad:
    """Lays two of a parameter's tensors into one buffer, `shift` elements apart."""

    def spoil(optimizer: Any, param: Tensor) -> None:
        buffer = torch.randn(12 + shift).abs()
        for name, begin in ((first, 0), (second, shift)):
            part = buffer[begin : begin + 12].view(SHAPE)
            if name == "parameter":
                param.data = part
            elif name == "gradient":
                param.grad = part
            else:
                optimizer.state[param][name] = part

    of_state = not {first, second} <= {"parameter", "gradient"}
    return Bad(f"{first} and {second} {shift} apart", spoil, "shares memory.*clone", of_state)


def _shared_rows(names: list[str]) -> list[Bad]:
    tensors = ["parameter", "gradient", *names]
    pairs = [(a, b) for k, a in enumerate(tensors) for b in tensors[k + 1 :]]
    return [_shared(a, b, shift) for a, b in pairs for shift in (0, 1, 11)]


def rows(case: Case) -> list[Bad]:
    """Returns the whole table for one algorithm."""
    rule, names = RULES[case.ours.rule], state_names(case, all_states_on(case))
    of_state = [row for name in names for row in _state_rows(name)]
    of_state += [row for number in rule.numbers for row in _number_rows(number.name, "finite")]
    if rule.counts_steps:  # otherwise a parameter without its states is a new one
        of_state += [row for name in names for row in _absent_rows(name)] + _step_rows()
    options = [_infinite(hyper.key) for hyper in rule.hypers if hyper.key == "weight_decay"]
    shared = _shared_rows(names)
    return [*GRADIENTS, *PARAMETERS, *OPTIONS, *options, *of_state, STATE_A_LIST, *shared]


def matches(bad: Bad, text: str) -> bool:
    return re.search(bad.says, text, re.DOTALL) is not None
