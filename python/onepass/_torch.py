"""Every private name of torch that onepass uses, each with the versions that have it so.

Tried with 2.9 to 2.15. A new torch is compared with this file and `csrc/tensor/torch_compat.h`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.optim import optimizer as _module
from torch.optim.optimizer import Optimizer, ParamsT

Spec = tuple[Any, tuple[Any, ...]]  # mesh and placements of a DTensor

# All versions: torch's wrapper around step(), which runs hooks and tells profilers.
wrapped_by_torch: Callable[[Callable[..., Any]], Callable[..., Any]] = Optimizer.profile_hook_step

_WRAPPER_CODE = wrapped_by_torch(lambda _: None).__code__


def is_wrapped_by_torch(step: Callable[..., Any]) -> bool:
    """Returns whether torch has wrapped this step (all versions)."""
    return getattr(step, "__code__", None) is _WRAPPER_CODE


def keep_unwrapped(step: Callable[..., Any]) -> None:
    """Marks a step that torch's constructor must not wrap (all versions)."""
    step.hooked = True  # type: ignore[attr-defined]


def without_wrapper(step: Callable[..., Any]) -> Callable[..., Any] | None:
    """Returns the function inside torch's wrapper; None without a wrapper (all versions)."""
    if not getattr(step, "hooked", False):
        return None
    inner: Callable[..., Any] = step.__wrapped__  # type: ignore[attr-defined]
    return inner


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Returns whether hooks run around a step: its own or those of all (all versions)."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _module._global_optimizer_pre_hooks
        or _module._global_optimizer_post_hooks
    )


def in_order(params: ParamsT) -> ParamsT:
    """Returns parameters in an order; a set is warned of, as torch does from 2.15 on."""
    if not isinstance(params, set):
        return params
    warnings.warn(
        "optimizer parameters need to be organized in ordered collections, but the ordering of "
        "tensors in sets will change between runs. Please use a list instead. This will be an "
        "error in a future release.",
        FutureWarning,
        stacklevel=4,  # the caller of a class's constructor
    )
    return list(params)


def is_exporting() -> bool:
    """Returns whether torch.export is tracing; up to 2.12 torch's own says so of any tracing."""
    return torch.compiler._is_exporting_flag


def number_dtype(is_fused: bool | None) -> torch.dtype:
    """Returns the dtype in which torch counts steps (all versions)."""
    dtype: torch.dtype = _module._get_scalar_dtype(is_fused=is_fused)  # type: ignore[no-untyped-call,unused-ignore]
    return dtype


def check_graph_capture(optimizer: Optimizer) -> None:
    """Refuses a capture without `capturable`, in torch's words (renamed in 2.11)."""
    named = "_accelerator_graph_capture_health_check"
    check = getattr(optimizer, named, None) or optimizer._cuda_graph_capture_health_check
    check()


def divide_(tensors: list[Tensor], divisor: Tensor) -> None:
    """Divides all tensors in place, in one call (all versions)."""
    torch._foreach_div_(tensors, divisor)


def note_step(optimizer: Optimizer) -> None:
    """Lets schedulers know of a step that was not step()'s: they warn before one (all versions)."""
    optimizer._opt_called = True  # type: ignore[attr-defined]


def accumulate_hooks(param: Tensor) -> list[Callable[[Tensor], None]]:
    """Returns what register_post_accumulate_grad_hook() has registered (all versions)."""
    return [*(getattr(param, "_post_accumulate_grad_hooks", None) or {}).values()]


def after_backward(call: Callable[[], None]) -> None:
    """Calls a function at the end of this backward, after what DDP and FSDP2 do there.

    They queue their own end before the first of these calls runs, and it queues the second (all
    versions).
    """
    queue = torch.autograd.Variable._execution_engine.queue_callback
    queue(lambda: queue(call))


def is_in_backward() -> bool:
    """Returns whether autograd runs in this thread (all versions)."""
    return torch._C._current_graph_task_id() != -1


def is_backward_nested() -> bool:
    """Returns, at the end of a backward, whether it ran inside of another one (all versions)."""
    return torch._C._current_autograd_node() is not None


def is_memory(tensor: Tensor) -> bool:
    """Returns whether a tensor's class has no way of its own to compute (all versions)."""
    cls = type(tensor)
    return cls is Tensor or cls.__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl


def is_async(tensor: Tensor) -> TypeGuard[Any]:
    """Returns whether a tensor is what a collective gives before it has ended (all versions)."""
    module = sys.modules.get("torch.distributed._functional_collectives")
    return module is not None and isinstance(tensor, module.AsyncCollectiveTensor)


def local_of(dtensor: Any) -> Tensor:
    """Returns the tensor that a DTensor holds; to_local() makes a new one (from 2.13 on)."""
    local: Tensor = dtensor._local_tensor
    return local


def spec_of(dtensor: Any) -> Spec:
    """Returns the mesh and the placements of a DTensor; its properties take longer."""
    spec = dtensor._spec
    return spec.mesh, spec.placements


def replicates_implicitly() -> bool:
    """Returns whether DTensors take plain tensors for replicated ones (all versions)."""
    module: Any = sys.modules["torch.distributed.tensor"]
    return bool(module.DTensor._op_dispatcher._allow_implicit_replication)


def is_flat(param: Any) -> bool:
    """Returns whether a parameter is one of FSDP1's flat ones (all versions)."""
    return bool(getattr(param, "_is_flat_param", False))


def is_flattened(param: Any) -> bool:
    """Returns whether a parameter is a view of one of FSDP1's flat ones (all versions)."""
    return bool(getattr(param, "_fsdp_flattened", False))
