"""What a model holds at a moment, to be put back later whatever was done to it meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..state import readable
from .names import reshard

_PLAIN = (Tensor, torch.nn.Parameter)


class Snapshot:
    """The tensors of a model: which there are, where their memory is, and what is in it."""

    def __init__(self, source: Any, tensors: Iterable[Tensor]) -> None:
        """Copies the tensors; of a module also all of its buffers."""
        self._module = source if isinstance(source, torch.nn.Module) else None
        modules = () if self._module is None else tuple(self._module.modules())
        self._names = {} if self._module is None else _tensors_of(self._module)
        self._entries = [_Entries(module) for module in modules]
        buffers = () if self._module is None else self._module.buffers()
        self._tensors = [*map(_Held, {id(t): t for t in (*tensors, *buffers)}.values())]

    def restore(self) -> str | None:
        """Puts back what can be; returns what cannot, in words."""
        lost = []
        if self._module is not None:
            reshard(self._module)
        for entries in self._entries:
            entries.restore()
        for held in self._tensors:
            try:
                held.restore()
            except Exception as error:  # the other tensors come back all the same
                lost.append(f"a tensor of shape {list(held.tensor.shape)} ({error})")
        return "; ".join([*lost, *self._changes()]) or None

    def _changes(self) -> list[str]:
        """Returns which tensors of the module are others than before."""
        if self._module is None:
            return []
        now = _tensors_of(self._module)
        new = [f"'{name}' is new" for name in now if self._names.get(name) != now[name]]
        gone = [f"'{name}' is gone" for name in self._names if name not in now]
        return [*new, *gone]


class _Held:
    """A tensor, the memory that it has, and a copy of what is there."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.grad = tensor, tensor.grad
        self.memory = tensor.detach()
        self.grad_memory = None if self.grad is None else self.grad.detach()
        self.place = _place(tensor)
        self.values = None if _is_unreadable(tensor) else _without_repeats(self.memory).clone()

    def restore(self) -> None:
        if _place(self.tensor) != self.place:
            self._return()
        if self.values is None:
            return
        if type(self.tensor) in _PLAIN and self.tensor.layout == torch.strided:
            storage = self.tensor.untyped_storage()
            if storage.nbytes() < self.place[-1]:  # freed in the block
                storage.resize_(self.place[-1])
        with torch.inference_mode(self.tensor.is_inference()), torch.no_grad():
            _without_repeats(self.tensor).copy_(self.values)

    def _return(self) -> None:
        """Gives the tensor its memory back, and its gradient, which moves along with it."""
        if type(self.tensor) not in _PLAIN:
            raise RuntimeError(f"a {type(self.tensor).__name__}, moved to another dtype or device")
        grad = self.tensor.grad
        self.tensor.grad = None
        self.tensor.data = self.memory
        if grad is not None and grad is self.grad and self.grad_memory is not None:
            grad.data = self.grad_memory
        self.tensor.grad = grad if grad is None or _fits(grad, self.tensor) else self.grad


class _Entries:
    """The parameters and buffers of one module, by name."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.kind = module, type(module)
        self.parameters, self.buffers = dict(module._parameters), dict(module._buffers)
        self.unsaved = set(module._non_persistent_buffers_set)

    def restore(self) -> None:
        # Where a block parametrized or fused a module, its class or its parameters have other
        # names: single tensors put back would break what is left.
        module = self.module
        if type(module) is not self.kind or module._parameters.keys() != self.parameters.keys():
            return
        _put_back(module._parameters, self.parameters)
        if _put_back(module._buffers, self.buffers):
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(self.unsaved)


def _tensors_of(module: torch.nn.Module) -> dict[str, int]:
    """Returns the identity of each tensor under each of its names."""
    parameters = module.named_parameters(remove_duplicate=False)
    buffers = module.named_buffers(remove_duplicate=False)
    return {name: id(tensor) for name, tensor in (*parameters, *buffers)}


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Makes a dict what it was; left alone where it is that, since compiled code watches it."""
    changed = now.keys() != before.keys() or any(now[k] is not v for k, v in before.items())
    if changed:
        now.clear()
        now.update(before)
    return changed


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Returns what differs once a tensor was given other memory."""
    if type(tensor) not in _PLAIN or tensor.layout != torch.strided:
        return tensor.dtype, tensor.device, tensor.shape
    storage, layout = tensor.untyped_storage(), (tensor.stride(), tensor.storage_offset())
    return tensor.dtype, tensor.device, tensor.shape, *layout, storage._cdata, storage.nbytes()


def _fits(grad: Tensor, tensor: Tensor) -> bool:
    return (grad.dtype, grad.device, grad.shape) == (tensor.dtype, tensor.device, tensor.shape)


def _is_unreadable(tensor: Tensor) -> bool:
    try:
        readable("", tensor)
    except ValueError:
        return True
    return False


def _without_repeats(tensor: Tensor) -> Tensor:
    """Returns the tensor with what an expansion repeats left out: torch does not write to that."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return tensor
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor
