"""What a step must compute from the very numbers it finds, by tests/reference.py in float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onepass.rules import RULES
from tests import reference, rounded
from tests.cases import Case
from tests.support import params_of

# Keys of a group that no formula reads.
NOT_OPTIONS = set(
    ["params", "param_names", "state_dtype", "foreach", "fused", "capturable", "differentiable"]
)


@dataclass
class Operands:
    """The tensors of one parameter in one step."""

    param: Tensor
    grad: Tensor
    step: Tensor
    states: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, Tensor] = field(default_factory=dict)  # states that are one number

    def all(self) -> list[Tensor]:
        return [self.param, self.grad, self.step, *self.written()]

    def written(self) -> list[Tensor]:
        """Returns what a step writes besides the parameter and its count."""
        return [*self.states.values(), *self.numbers.values()]


def state_names(case: Case, options: Mapping[str, Any]) -> list[str]:
    return [state.name for state in RULES[case.ours.rule].states_in(options)]


def all_states_on(case: Case) -> dict[str, Any]:
    """Returns the options under which a parameter has every state that its algorithm knows."""
    return {state.only_if: True for state in RULES[case.ours.rule].states if state.only_if}


def op_lists(case: Case, operands: Sequence[Operands]) -> list[list[Tensor]]:
    """Returns the lists that the op takes for these parameters, in its order."""
    rule = RULES[case.ours.rule]
    lists = [[o.param for o in operands], [o.grad for o in operands]]
    lists += [[o.states[s.name] for o in operands if s.name in o.states] for s in rule.states]
    lists += [[o.numbers[n.name] for o in operands] for n in rule.numbers]
    return [*lists, [o.step for o in operands]]


def op_of(case: Case) -> Any:
    """Returns the torch op of the algorithm."""
    return getattr(torch.ops.onepass, f"{case.ours.rule}_").default


@functools.cache
def op_argument_types(rule: str) -> dict[str, str]:
    """Returns the types of the op's arguments, such as "Tensor" and "Optional[float]"."""
    schema = getattr(torch.ops.onepass, f"{rule}_").default._schema
    return {argument.name: str(argument.type) for argument in schema.arguments}


def as_op_argument(case: Case, name: str, value: Any) -> Any:
    """Returns a number as the op's schema wants it: some are tensors."""
    if isinstance(value, (int, float)) and "Tensor" in op_argument_types(case.ours.rule)[name]:
        return torch.tensor(value, dtype=torch.float64)
    return value


def op_options(case: Case, group: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the hyper-parameters of a group as the arguments of the op."""
    options = {"maximize": group["maximize"]}
    for hyper in RULES[case.ours.rule].hypers:
        if hyper.key in group:
            value = group[hyper.key]
            value = value if hyper.index < 0 else value[hyper.index]
            options[hyper.name] = as_op_argument(case, hyper.name, value)
    return options


def wide(tensor: Tensor) -> np.ndarray:
    """Returns the numbers in float64; a complex number as a pair."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.double().numpy().copy()


def operands_of(case: Case, optimizer: Any) -> list[tuple[Operands, dict[str, Any]]]:
    """Returns the tensors and the options of every parameter that has a gradient and a state."""
    found = []
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key not in NOT_OPTIONS}
        for param in group["params"]:
            state = optimizer.state.get(param, {})
            if param.grad is not None and state:
                states = {name: state[name] for name in state_names(case, group)}
                numbers = {one.name: state[one.name] for one in RULES[case.ours.rule].numbers}
                step = state["step"] if "step" in state else torch.ones(())  # no first step
                found.append((Operands(param, param.grad, step, states, numbers), options))
    return found


def expected(case: Case, operands: Operands, options: Mapping[str, Any]) -> reference.Step:
    """Returns what one step from here must give, computed before the step."""
    states = {name: wide(tensor) for name, tensor in operands.states.items()}
    shape = wide(operands.param).shape
    states |= {name: np.full(shape, float(x)) for name, x in operands.numbers.items()}
    count = float(operands.step.detach() + 1)  # a float32 count stays at 2^24
    return case.reference(wide(operands.param), wide(operands.grad), states, count, options)


def assert_near(want: reference.Step, operands: Operands, about: object, slack: float = 1) -> None:
    """Compares parameter and states after a step with what `expected` said before it."""
    pairs = [("param", operands.param, want.param)]
    pairs += [(name, tensor, want.state[name]) for name, tensor in operands.states.items()]
    if operands.param.numel():
        pairs += [(name, tensor, want.state[name]) for name, tensor in operands.numbers.items()]
    for name, tensor, value in pairs:
        stored = tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
        limit = rounded.bound(want.scale[name], value, str(stored).removeprefix("torch."))
        error = abs(wide(tensor) - value)
        off = np.max(error, initial=0.0)
        assert (error <= slack * limit).all(), f"{about}: {name} is {off:.3g} off"


def assert_steps_right(case: Case, optimizer: Any, about: object, slack: float = 1) -> None:
    """Takes a step of an optimizer whose parameters have states, and compares it."""
    found = operands_of(case, optimizer)
    wanted = [expected(case, operands, options) for operands, options in found]
    counts = [operands.step.detach() + RULES[case.ours.rule].counts_steps for operands, _ in found]
    optimizer.step()
    for (operands, _), want, count in zip(found, wanted, counts, strict=True):
        assert_near(want, operands, about, slack)
        assert torch.equal(operands.step, count), f"{about}: step should be {count}"


def give_states(optimizer: Any) -> None:
    """Takes one step along the gradients that are there, so that every parameter has a state."""
    optimizer.step()
    missing = [p for p in params_of(optimizer) if p.grad is not None and p not in optimizer.state]
    assert not missing


def all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(math.isfinite(abs(wide(tensor)).sum()) for tensor in tensors)
