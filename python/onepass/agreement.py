"""One step beside torch's: how far the parameters of both are apart, without touching the user's.

The reference is the for-loop of torch's class, which its other implementations follow.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from ._torch import is_memory, without_wrapper
from .convert import to_torch
from .optimizer import OnePass
from .options import EVERYWHERE, in_use, torchs_class
from .rules import RULES
from .state import parameter_name, state_dtype

_BY_A_CALL = ("max_grad_norm", "skip_nonfinite")  # in which torch does the same
_IMPLEMENTATIONS = ("foreach", "fused", "capturable", "differentiable")
_SHOWN = 10


@dataclass(frozen=True)
class ParameterAgreement:
    """Says how far a parameter is from torch's after one step."""

    name: str
    dtype: torch.dtype
    ulps: float  # largest, of the number before or after the step, whichever is larger
    relative: float  # the largest difference over the largest number
    bit_equal: bool


@dataclass(frozen=True, repr=False)
class Agreement:
    """Says how far each parameter that has a gradient is from torch's after one step."""

    optimizer: str
    parameters: tuple[ParameterAgreement, ...]
    without_gradient: int

    @property
    def bit_equal(self) -> bool:
        """Whether every bit of every parameter is torch's."""
        return all(one.bit_equal for one in self.parameters)

    @property
    def ulps(self) -> float:
        """The largest difference, in units in the last place of the parameter's dtype."""
        return max(one.ulps for one in self.parameters)

    @property
    def relative(self) -> float:
        """The largest difference, relative to the largest number of its parameter."""
        return max(one.relative for one in self.parameters)

    def __repr__(self) -> str:
        """Returns what agrees, and the parameters that are furthest apart."""
        equal = sum(one.bit_equal for one in self.parameters)
        lines = [
            f"one step of onepass.{self.optimizer} beside torch.optim.{self.optimizer}: "
            f"{equal} of {len(self.parameters)} parameters have the same bits",
            f"largest difference: {_digits(self.ulps)} ulp, {self.relative:.1e} relative",
        ]
        if self.without_gradient:
            lines.append(f"not stepped, without a gradient: {self.without_gradient}")
        apart = [one for one in self.parameters if not one.bit_equal]
        apart.sort(key=lambda one: -one.ulps)
        for one in apart[:_SHOWN]:
            dtype = str(one.dtype).removeprefix("torch.")
            lines.append(
                f"  {_digits(one.ulps):>6} ulp  {one.relative:.1e}  {dtype:<9}  {one.name}"
            )
        if len(apart) > _SHOWN:
            lines.append(f"  and {len(apart) - _SHOWN} that are nearer")
        return "\n".join(lines)


def _digits(number: float) -> str:
    return f"{number:.3g}"


def check(optimizer: OnePass) -> Agreement:
    """Compares the step that an optimizer would take now with torch's for-loop, on copies.

    Nothing of the model, the optimizer or the random numbers changes, and no hook runs. It takes
    three times the memory of parameters, gradients and state meanwhile.

    Args:
        optimizer: one of a class that torch has too, whose parameters have gradients: call it
            between ``backward()`` and ``step()``, fresh or in the middle of a training.

    Returns:
        For each parameter the largest difference in ulps of its dtype, of the number before or
        after the step, whichever is larger, and relative to the largest number of the parameter;
        and whether all bits are the same. Its ``repr`` is a small report. Torch clips with
        ``clip_grads_with_norm_`` where ``max_grad_norm`` is in use. float16 parameters are held
        against torch's step in float32, rounded once: torch's own states in float16 underflow.

    Raises:
        TypeError: torch.optim has no such class, or an option has no counterpart there, or a
            parameter is a DTensor or another subclass, or a gradient is sparse.
        RuntimeError: no parameter has a gradient, or the step would be refused.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(4, requires_grad=True)
        >>> opt = onepass.SGD([weight], lr=0.5)
        >>> weight.square().sum().backward()
        >>> onepass.check(opt)
        one step of onepass.SGD beside torch.optim.SGD: 1 of 1 parameters have the same bits
        largest difference: 0 ulp, 0.0e+00 relative
        >>> weight.detach()
        tensor([1., 1., 1., 1.])
    """
    if not isinstance(optimizer, OnePass):
        raise TypeError(f"check() takes an optimizer of onepass, got {type(optimizer).__name__}")
    name = _name_of_torchs(optimizer)
    _refuse_options(optimizer, name)
    _refuse_tensors(optimizer)
    with torch.inference_mode(False), torch.no_grad():
        ours, twin = _copied(optimizer), _copied(optimizer, widens=True)
        is_taken = _clip(twin)
        theirs = _torchs_loop(twin)
        _step(ours)
        if is_taken:
            _step(theirs)
        rows = list(zip(_params(optimizer), _params(ours), _params(theirs), strict=True))
        stepped = tuple(
            _compared(place, before, after, other)
            for (place, before), (_, after), (_, other) in rows
            if before.grad is not None
        )
    return Agreement(name, stepped, len(rows) - len(stepped))


def _params(optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    for i, group in enumerate(optimizer.param_groups):
        for k, param in enumerate(group["params"]):
            yield parameter_name(group, i, k), param


def _name_of_torchs(optimizer: OnePass) -> str:
    cls = torchs_class(type(optimizer))
    if cls is None:
        raise TypeError(
            f"torch.optim has no {type(optimizer).__name__} to compare with; "
            "python -m onepass doctor checks that its steps are finite"
        )
    return cls.__name__


def _refuse_options(optimizer: OnePass, name: str) -> None:
    cls = type(optimizer)
    if optimizer.defaults.get("differentiable"):
        raise TypeError("differentiable=True takes torch's own step: there is nothing to compare")
    for index, group in enumerate(optimizer.param_groups):
        for option in in_use(cls, group):
            if option in (*_BY_A_CALL, *EVERYWHERE):
                continue
            if option == "state_dtype" and _states_are_torchs(optimizer, group):
                continue
            raise TypeError(
                f"parameter group {index} uses {option}, for which torch.optim.{name} has no "
                "counterpart; check an optimizer without it"
            )


def _states_are_torchs(optimizer: OnePass, group: dict[str, Any]) -> bool:
    return all(
        state_dtype(state, param, group) == _torchs_dtype(param)
        for param in group["params"]
        for state in RULES[optimizer.rule].states
    )


def _torchs_dtype(param: Tensor) -> torch.dtype:
    return torch.float32 if param.dtype == torch.float16 else param.dtype


def _refuse_tensors(optimizer: OnePass) -> None:
    has_gradient = False
    for place, param in _params(optimizer):
        if param.grad is None:
            continue
        has_gradient = True
        for tensor in (param, param.grad):
            if not is_memory(tensor):
                raise TypeError(
                    f"check() compares plain tensors, but {place} or its gradient is a "
                    f"{type(tensor).__name__}; check the model before it is wrapped"
                )
        if param.grad.layout != torch.strided:
            raise TypeError(
                f"the gradient of {place} is sparse, and check() compares dense steps; "
                "call .to_dense() on it"
            )
    if not has_gradient:
        raise RuntimeError("check() found no gradient to step along; call backward() before it")


def _copied(optimizer: OnePass, widens: bool = False) -> OnePass:
    """Returns a copy over copies of the parameters and gradients; it has no hooks."""
    known = {id(param): param for _, param in _params(optimizer)}
    memo = {key: _copy_of(param, widens) for key, param in known.items()}
    return copy.deepcopy(optimizer, memo)


def _copy_of(param: Tensor, widens: bool) -> Tensor:
    dtype = _torchs_dtype(param) if widens else param.dtype
    made = param.detach().to(dtype, copy=True).requires_grad_(param.requires_grad)
    if param.grad is not None:
        grad = param.grad.detach().to(dtype if widens else param.grad.dtype, copy=True)
        if grad.dtype != made.dtype:
            made.grad_dtype = None
        made.grad = grad
    return made


def _clip(optimizer: OnePass) -> bool:
    """Does by a call what torch's step cannot; returns whether the step is taken then."""
    groups = optimizer.param_groups
    if all(not group.get("skip_nonfinite") and _bound(group) is None for group in groups):
        return True
    grads = [param.grad for _, param in _params(optimizer) if param.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    for group in groups:
        if _bound(group) is not None:
            torch.nn.utils.clip_grads_with_norm_(group["params"], _bound(group), norm)
    return bool(norm.isfinite()) or not any(group.get("skip_nonfinite") for group in groups)


def _bound(group: dict[str, Any]) -> Any:
    return group.get("max_grad_norm")


def _torchs_loop(twin: OnePass) -> Optimizer:
    for options in (twin.defaults, *twin.param_groups):
        options.update({key: False for key in _IMPLEMENTATIONS if key in options})
    for group in twin.param_groups:
        for option in in_use(type(twin), group):
            del group[option]
    made = to_torch(twin)
    for param, own in made.state.items():  # of which torch's loading casts numbers too
        numbers = RULES[twin.rule].number_names()
        own.update({key: value for key, value in twin.state[param].items() if key in numbers})
    return made


def _step(optimizer: Optimizer) -> None:
    """Takes a step of which the hooks of all optimizers learn nothing."""
    step: Any = type(optimizer).step
    (without_wrapper(step) or step)(optimizer)


def _compared(name: str, before: Tensor, ours: Tensor, theirs: Tensor) -> ParameterAgreement:
    dtype = ours.dtype
    theirs = theirs.to(dtype)
    a, b, start = (_doubles(tensor) for tensor in (ours, theirs, before))
    is_same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(is_same, 0.0, (a - b).abs()).nan_to_num(nan=torch.inf, posinf=torch.inf)
    ulp = _ulps_at(torch.maximum(b.abs(), start.abs()), dtype)
    return ParameterAgreement(
        name=name,
        dtype=dtype,
        ulps=_largest(gap / ulp),
        relative=_largest(gap) / (_largest(b.abs()) or torch.inf) if gap.any() else 0.0,
        bit_equal=torch.equal(_bytes(ours), _bytes(theirs)),
    )


def _doubles(tensor: Tensor) -> Tensor:
    plain = tensor.detach().resolve_conj().resolve_neg()
    return (torch.view_as_real(plain) if plain.is_complex() else plain).double()


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _ulps_at(sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the distance to the next number of a dtype."""
    about = torch.finfo(dtype)
    _, exponent = torch.frexp(sizes)
    smallest = about.smallest_normal * about.eps
    return torch.ldexp(torch.full_like(sizes, about.eps), exponent - 1).clamp(min=smallest)


def _largest(sizes: Tensor) -> float:
    return float(sizes.max()) if sizes.numel() else 0.0
