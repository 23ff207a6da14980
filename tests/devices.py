"""The devices that kernels run on in tests: GPUs, and the emulation of one in builds for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from onepass import _C
from tests.cases import CASES, Case
from tests.layouts import same_bits
from tests.support import params_of, randn

EMULATION: Any = getattr(_C, "emulation", None)  # of builds with ONEPASS_CUDA=emulate
ORDERS = (("ascending", 0), ("descending", 0), ("shuffled", 1))


@dataclass(frozen=True)
class Device:
    """Where tensors are put, and how the kernels that step them are run.

    Args:
        name: what torch calls it.
        emulated: which tensors of the CPU are taken for those of a device: elements, or all.
        order: in which threads take turns where they are emulated.
    """

    name: str
    emulated: str = "none"
    order: tuple[str, int] = ORDERS[0]

    def __str__(self) -> str:
        return self.name if self.emulated == "none" else f"emulated {self.emulated} {self.order[0]}"

    def put(self, tensor: Tensor) -> Tensor:
        """Returns a leaf with the same memory layout on the device, with the gradient."""
        moved = _moved(tensor.detach(), self.name).requires_grad_(tensor.requires_grad)
        moved.grad_dtype = None
        if tensor.grad is not None:
            moved.grad = _moved(tensor.grad, self.name)
        return moved

    @contextmanager
    def running(self) -> Iterator[None]:
        """Lets the kernels run what is stepped within."""
        if EMULATION is None:
            yield
            return
        EMULATION.use(self.emulated)
        EMULATION.set_order(*self.order)
        try:
            yield
        finally:
            EMULATION.use("none")
            EMULATION.set_capturing(False)


def _moved(tensor: Tensor, device: str) -> Tensor:
    """Returns a copy whose elements lie in their memory as those of the tensor do in its own."""
    storage = tensor.untyped_storage()
    memory = torch.empty(storage.nbytes(), dtype=torch.uint8)
    memory.untyped_storage().copy_(storage)
    made = torch.empty(0, dtype=tensor.dtype, device=device)
    made.set_(
        memory.to(device).untyped_storage(),
        tensor.storage_offset(),
        tensor.size(),
        tensor.stride(),
    )
    return made


def _params(*emulated: Device) -> list[Any]:
    found = [pytest.param(d, marks=pytest.mark.emulated, id=str(d)) for d in emulated]
    return [*(found if EMULATION else ()), pytest.param(CUDA, marks=pytest.mark.cuda, id="cuda")]


CUDA = Device("cuda")
HERE = Device("cpu", "all")  # emulated

ELEMENTS = Device("cpu", "elements")  # emulated too, with the numbers of the step on the CPU

# On a GPU, and in a build with the emulation there too: with each order of turns, or with one where
# threads have nothing to do with each other.
each_device = pytest.mark.parametrize(
    "device", _params(ELEMENTS, *(Device("cpu", "all", order) for order in ORDERS[1:]))
)
each_kind_of_device = pytest.mark.parametrize("device", _params(ELEMENTS, HERE))
# For promises of what lies on the device as a whole: counts, rates, what the scaler sets.
each_whole_device = pytest.mark.parametrize("device", _params(HERE))


class Pair:
    """One optimizer over parameters of the CPU, and one over the same on a device."""

    def __init__(
        self, case: Case, device: Device, groups: Sequence[dict[str, Any]], **options: Any
    ) -> None:
        self.device = device
        self.ours = case.ours(list(groups), **options)
        moved = [
            {**group, "params": [device.put(p) for p in group["params"]]}
            for group in self.ours.param_groups
        ]
        self.theirs = case.ours(moved, **options)

    def set_gradients(self, seed: int) -> None:
        """Gives both the same gradients; with seed 0 those that the one on the CPU has."""
        for k, (here, there) in enumerate(self._params()):
            if here.grad is None or seed > 0:
                here.grad = randn(here.shape, here.dtype, 1000 * seed + k)
            there.grad = self.device.put(here).grad

    def step(self, seed: int) -> None:
        self.set_gradients(seed)
        self.ours.step()
        with self.device.running():
            self.theirs.step()

    def _params(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(params_of(self.ours), params_of(self.theirs), strict=True)

    def check(self, where: object = "") -> None:
        """Compares the bits of parameters and states."""
        for k, (here, there) in enumerate(self._params()):
            assert same_bits(here, there.cpu()), f"{where}: parameter {k}"
            own, other = self.ours.state.get(here, {}), self.theirs.state.get(there, {})
            assert own.keys() == other.keys(), where
            for key, value in own.items():
                assert same_bits(value, other[key].cpu()), f"{where}: {key} of parameter {k}"

    def check_steps(self, count: int, where: object = "") -> None:
        for seed in range(1, count + 1):
            self.step(seed)
            self.check(f"{where}, step {seed}")


def leaves(sizes: Iterable[Any], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    shapes = [(size,) if isinstance(size, int) else size for size in sizes]
    return [randn(shape, dtype, k).requires_grad_() for k, shape in enumerate(shapes)]


def of(name: str) -> Case:
    return next(case for case in CASES if str(case) == name)
