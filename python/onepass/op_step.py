"""The step where tensors are more than memory: DTensor, torch.compile, fake tensors, modes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ._native import C
from ._torch import divide_, is_exporting, is_memory, spec_of
from .codes import holds_codes
from .grad_norm import clip, forbid_step, needs_grad_norm
from .local_step import LocalStep
from .options import raise_reference_rate, rounds_randomly
from .parts import is_dtensor, parts_of, wrapper_in
from .placement import Place, check_placement
from .rules import RULES
from .state import number_device, parameter_name

if TYPE_CHECKING:
    from .optimizer import OnePass


def step_locally(optimizer: OnePass) -> None:
    """Takes the step on what DTensors and tensor subclasses consist of, all or nothing."""
    local = LocalStep(optimizer)
    native = optimizer._native()
    scale, found_inf = optimizer._scaler()
    taken = native.steps_taken
    try:
        local.put_moved(is_scaled=scale is not None)
        if not native.step(local.groups, local.state, local.new_state, scale, found_inf):
            raise RuntimeError(
                "a parameter or its gradient is a tensor that exists only inside a function "
                "transform (as vmap or grad); step outside of it, with gradients that have left it"
            )
    except BaseException:
        if native.steps_taken == taken:  # or an interrupt came after the step
            local.take_back()
        raise
    if native.steps_taken == taken:  # skipped for the gradient scaler
        local.take_back()
    else:
        local.finish()


def step_by_op(optimizer: OnePass) -> None:
    """Takes the step by the torch op, one for each group."""
    _refuse_sparse_gradients(optimizer)
    if holds_codes(optimizer):
        raise RuntimeError(
            "neither a compiled step nor one under a dispatch mode takes states of 8 bits; call "
            "step() without them, or load onepass.to_float32_state_dict() without state_dtype"
        )
    if any(rounds_randomly(group) for group in optimizer.param_groups):
        raise RuntimeError(
            "neither a compiled step nor one under a dispatch mode rounds stochastically; call "
            "step() without them, or leave stochastic_rounding and state_rounding out"
        )
    with torch.no_grad():
        if torch.compiler.is_compiling():
            _step_compiled(optimizer)
        else:
            _step_under_mode(optimizer)


def _step_under_mode(optimizer: OnePass) -> None:
    scale, found_inf = optimizer._scaler()
    # Refuse before the first op, and make no state to skip.
    if type(found_inf) is Tensor and C.Step.skips(found_inf):
        return
    local = LocalStep(optimizer, strict=False)
    if forbid_step(optimizer, local.groups, scale):
        return
    ran = False
    try:
        local.put_moved(is_scaled=scale is not None)
        optimizer._native().rehearse(local.groups, local.state, local.new_state)
        filled = _filled_lists(optimizer, local)
        ran = True
        _run_ops(optimizer, filled)
    except BaseException:
        if not ran:
            local.take_back()
        raise
    local.finish()


def _filled_lists(optimizer: OnePass, local: LocalStep) -> list[tuple[dict[str, Any], Any]]:
    """Returns each group with the op's lists of its tensors."""
    rule = RULES[optimizer.rule]
    states = _States(optimizer, local.state, local.new_state, local.count_key, local.is_new)
    filled = []
    for group in local.groups:
        lists: list[list[Tensor]] = [[] for _ in rule.lists()]
        for param in group["params"]:
            if param.grad is not None:
                _fill_lists(states, param, group, lists)
        filled.append((group, lists))
    return filled


def _step_compiled(optimizer: OnePass) -> None:
    if is_exporting():
        raise RuntimeError(
            f"a step of {type(optimizer).__name__} cannot be exported: a program of torch.export "
            "keeps no optimizer's state; export the model alone, or torch.compile the step"
        )
    filled = []
    for group in optimizer.param_groups:
        lists: list[list[Tensor]] = [[] for _ in RULES[optimizer.rule].lists()]
        optimizer._init_group(group, *lists)
        if not all(is_memory(param) for param in lists[0]):
            lists[1] = [_placed_as(*pair) for pair in zip(lists[1], lists[0], strict=True)]
            lists = [[_local(tensor) for tensor in tensors] for tensors in lists]
        filled.append((group, lists))
    _run_ops(optimizer, filled)


def _placed_as(grad: Any, param: Any) -> Any:
    if not is_dtensor(param) or grad.placements == param.placements:
        return grad
    return grad.redistribute(placements=param.placements)


def _local(tensor: Any) -> Any:
    return tensor.to_local() if is_dtensor(tensor) else tensor


def _run_ops(optimizer: OnePass, filled: list[tuple[dict[str, Any], list[list[Tensor]]]]) -> None:
    rule = RULES[optimizer.rule]
    scale, found_inf = optimizer._scaler()
    for _, lists in filled:
        _unscale(lists[1], scale, found_inf)
    optimizer._norms["last"] = False
    if any(needs_grad_norm(group) for group, _ in filled):
        found_inf = clip(optimizer, filled, found_inf)
    op = getattr(torch.ops.onepass, f"{rule.name}_")
    for group, lists in filled:
        options = rule.arguments_in(group)
        op(*lists, **options, maximize=group["maximize"], found_inf=found_inf)
        raise_reference_rate(group, found_inf)


def _refuse_sparse_gradients(optimizer: OnePass) -> None:
    for i, group in enumerate(optimizer.param_groups):
        for k, param in enumerate(group["params"]):
            if param.grad is not None and param.grad.layout != torch.strided:
                raise RuntimeError(
                    f"the gradient of {parameter_name(group, i, k)} is sparse, which neither a "
                    "compiled step nor one under a dispatch mode takes; call step() without them"
                )


class _States(NamedTuple):
    """Where the op's lists take states from, and under what they count what keeps no count."""

    optimizer: OnePass
    state: Any
    new_state: Callable[[Tensor, dict[str, Any]], dict[str, Any]]
    count_key: Callable[[Tensor], Any]
    is_new: Callable[[Tensor], bool]  # whether the state was made for this step


def fill_lists(
    optimizer: OnePass, param: Tensor, group: dict[str, Any], lists: tuple[list[Tensor], ...]
) -> None:
    """Adds a parameter's tensors to the op's lists, and makes its state where it has none."""
    grad = param.grad
    if grad is not None and not (is_memory(param) and is_memory(grad)):
        _check_compiled(optimizer, param, grad, group)
    states = _States(
        optimizer, optimizer.state, optimizer._new_state, lambda own: own, lambda _: False
    )
    _fill_lists(states, param, group, lists)


def _check_compiled(optimizer: OnePass, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
    """Refuses what a compiled step cannot bring to plain tensors."""
    index = next(i for i, one in enumerate(optimizer.param_groups) if one is group)
    place = Place(group, index, next(k for k, one in enumerate(group["params"]) if one is param))
    check_placement(param, grad, place)
    for wrapper in (wrapper_in(param), wrapper_in(grad)):
        if wrapper is not None and parts_of(wrapper):
            raise TypeError(
                f"{place} or its gradient is a {type(wrapper).__name__}, which a compiled step "
                "does not take; call step() without torch.compile"
            )
    names = {one.name for one in RULES[optimizer.rule].states}
    for key, value in optimizer.state.get(param, {}).items():
        if key in names and is_dtensor(value) and spec_of(value) != spec_of(param):
            raise TypeError(
                f"{key} of {place} is placed otherwise than the parameter; take one step without "
                "torch.compile, which redistributes it"
            )


def _fill_lists(
    states: _States, param: Tensor, group: dict[str, Any], lists: Sequence[list[Tensor]]
) -> None:
    rule = RULES[states.optimizer.rule]
    row: dict[str, Any] = {"params": param, "grads": param.grad}
    wanted = [*rule.numbers, *rule.states_in(group)]
    if wanted or rule.counts_steps:
        state = states.state.get(param) or {}
        lacks = not state or (not rule.counts_steps and state.get(wanted[0].name) is None)
        is_new = lacks or states.is_new(param)
        if lacks:
            state = states.state.setdefault(param, {})
            state.update(states.new_state(param, group))
        row |= {one.name: state[one.name] for one in wanted}
        row["step"] = state["step"] if rule.counts_steps else _counted(states, param, is_new)
    for name, tensors in zip(rule.lists(), lists, strict=True):
        if name in row:
            tensors.append(row[name])


def _counted(states: _States, param: Tensor, is_new: bool) -> Tensor:
    """Returns the op's count for an algorithm that keeps none: it must know the first step."""
    counts: dict[Any, Tensor] = states.optimizer.__dict__.setdefault("_counts", {})
    key = states.count_key(param)
    if is_new or key not in counts:
        counts[key] = torch.full((), float(not is_new), device=number_device(param))
    return counts[key]


def _unscale(grads: list[Tensor], scale: Tensor | None, found_inf: Tensor | None) -> None:
    if scale is None:
        return
    if found_inf is not None:
        scale = torch.where(found_inf != 0, torch.ones_like(scale), scale)
    divide_(grads, scale)
