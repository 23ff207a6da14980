"""The step where tensors are more than memory: DTensor, torch.compile, fake tensors, modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._native import C
from ._torch import divide_
from .rules import RULES
from .state import localize, number_device, parameter_name

if TYPE_CHECKING:
    from .optimizer import OnePass


def step_locally(optimizer: OnePass) -> None:
    """Takes the step on the local tensors of DTensors, all or nothing like any other."""
    owners: dict[Tensor, tuple[Tensor, str]] = {}  # of local tensors: the parameter and its name
    local_state: dict[Tensor, Any] = {}
    local_groups = []
    for i, group in enumerate(optimizer.param_groups):
        params = []
        for k, param in enumerate(group["params"]):
            name = parameter_name(group, i, k)
            if _is_part(param) and (RULES[optimizer.rule].sums or group.get("cautious")):
                raise TypeError(
                    f"{type(optimizer).__name__} sums over whole parameters, but of {name} each "
                    "process holds a part; replicate it or take another class"
                )
            local = localize(param, name)
            params.append(local)
            owners[local] = param, name
            if param.grad is not None and optimizer.state.get(param):
                local_state[local] = _local_state(optimizer.state[param], name)
        local_groups.append({**group, "params": params})

    new: dict[Tensor, Any] = {}

    def new_state(local: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        param, name = owners[local]
        new[param] = optimizer._new_state(param, group)
        return _local_state(new[param], name)

    optimizer._native().step(local_groups, local_state, new_state, *optimizer._scaler())
    optimizer.state.update(new)
    for local, state in local_state.items():  # to which a first sparse gradient adds
        own = optimizer.state[owners[local][0]]
        own.update({key: state[key] for key in state.keys() - own.keys()})


def _is_part(param: Tensor) -> bool:
    """Whether this process holds a part of a parameter, and others the rest."""
    mesh = getattr(param, "device_mesh", None)
    return (
        mesh is not None
        and mesh.size() > 1
        and not all(placement.is_replicate() for placement in param.placements)  # type: ignore[attr-defined]
    )


def _local_state(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        key: localize(value, name) if isinstance(value, Tensor) else value
        for key, value in state.items()
    }


def step_by_op(optimizer: OnePass) -> None:
    """Takes the step by the torch op, one for each group."""
    rule = RULES[optimizer.rule]
    op = getattr(torch.ops.onepass, f"{rule.name}_")
    scale, found_inf = optimizer._scaler()
    _refuse_sparse_gradients(optimizer)
    if not torch.compiler.is_compiling():  # refuse before the first op, and make no state to skip
        if type(found_inf) is Tensor and C.Step.skips(found_inf):
            return
        optimizer._native().rehearse(optimizer.param_groups, optimizer.state, optimizer._new_state)
    with torch.no_grad():
        for group in optimizer.param_groups:
            lists: list[list[Tensor]] = [[] for _ in rule.lists()]
            optimizer._init_group(group, *lists)
            options = {hyper.name: hyper.argument(group) for hyper in rule.hypers}
            _unscale(lists[1], scale, found_inf)
            op(*lists, **options, maximize=group["maximize"], found_inf=found_inf)


def _refuse_sparse_gradients(optimizer: OnePass) -> None:
    for i, group in enumerate(optimizer.param_groups):
        for k, param in enumerate(group["params"]):
            if param.grad is not None and param.grad.layout != torch.strided:
                raise RuntimeError(
                    f"the gradient of {parameter_name(group, i, k)} is sparse, which neither a "
                    "compiled step nor one under a dispatch mode takes; call step() without them"
                )


def fill_lists(
    optimizer: OnePass, param: Tensor, group: dict[str, Any], lists: tuple[list[Tensor], ...]
) -> None:
    """Adds a parameter's tensors to the op's lists, and makes its state where it has none."""
    rule = RULES[optimizer.rule]
    row: dict[str, Any] = {"params": param, "grads": param.grad}
    wanted = [*rule.numbers, *rule.states_in(group)]
    if wanted or rule.counts_steps:
        state = optimizer.state[param]
        is_new = not state or (not rule.counts_steps and state.get(wanted[0].name) is None)
        if is_new:
            state.update(optimizer._new_state(param, group))
        row |= {one.name: state[one.name] for one in wanted}
        row["step"] = state["step"] if rule.counts_steps else _counted(optimizer, param, is_new)
    for name, tensors in zip(rule.lists(), lists, strict=True):
        if name in row:
            tensors.append(row[name])


def _counted(optimizer: OnePass, param: Tensor, is_new: bool) -> Tensor:
    """Returns the op's count for an algorithm that keeps none: it must know the first step."""
    counts: dict[Tensor, Tensor] = optimizer.__dict__.setdefault("_counts", {})
    if is_new or param not in counts:
        counts[param] = torch.full((), float(not is_new), device=number_device(param))
    return counts[param]


def _unscale(grads: list[Tensor], scale: Tensor | None, found_inf: Tensor | None) -> None:
    if scale is None:
        return
    if found_inf is not None:
        scale = torch.where(found_inf != 0, torch.ones_like(scale), scale)
    divide_(grads, scale)
